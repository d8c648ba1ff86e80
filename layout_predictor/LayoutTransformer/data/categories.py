"""The 171 COCO and COCO-stuff categories, and the other words that name them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from layout_predictor.LayoutTransformer.data.wordlists import phrases, words

THINGS = phrases(
    """
    person; bicycle; car; motorcycle; airplane; bus; train; truck; boat; traffic light; fire hydrant; stop sign;
    parking meter; bench; bird; cat; dog; horse; sheep; cow; elephant; bear; zebra; giraffe; backpack; umbrella;
    handbag; tie; suitcase; frisbee; skis; snowboard; sports ball; kite; baseball bat; baseball glove;
    skateboard; surfboard; tennis racket; bottle; wine glass; cup; fork; knife; spoon; bowl; banana; apple;
    sandwich; orange; broccoli; carrot; hot dog; pizza; donut; cake; chair; couch; potted plant; bed;
    dining table; toilet; tv; laptop; mouse; remote; keyboard; cell phone; microwave; oven; toaster; sink;
    refrigerator; book; clock; vase; scissors; teddy bear; hair drier; toothbrush
    """
)

STUFF = phrases(
    """
    banner; blanket; branch; bridge; building-other; bush; cabinet; cage; cardboard; carpet; ceiling-other;
    ceiling-tile; cloth; clothes; clouds; counter; cupboard; curtain; desk-stuff; dirt; door-stuff; fence;
    floor-marble; floor-other; floor-stone; floor-tile; floor-wood; flower; fog; food-other; fruit;
    furniture-other; grass; gravel; ground-other; hill; house; leaves; light; mat; metal; mirror-stuff; moss;
    mountain; mud; napkin; net; paper; pavement; pillow; plant-other; plastic; platform; playingfield; railing;
    railroad; river; road; rock; roof; rug; salad; sand; sea; shelf; sky-other; skyscraper; snow; solid-other;
    stairs; stone; straw; structural-other; table; tent; textile-other; towel; tree; vegetable; wall-brick;
    wall-concrete; wall-other; wall-panel; wall-stone; wall-tile; wall-wood; water-other; waterdrops;
    window-blind; window-other; wood
    """
)

# Other words for a category; plurals are derived.
_SYNONYMS = {
    "person": "man woman boy girl child kid baby lady gentleman guy people men women children human"
    " pedestrian skier surfer player skateboarder snowboarder cyclist driver worker farmer waiter"
    " waitress chef rider jockey",
    "bicycle": "bike,cycle,mountain bike",
    "car": "automobile,sedan,taxi,cab,jeep,suv,convertible,minivan,sports car",
    "motorcycle": "motorbike,scooter,moped,motor bike",
    "airplane": "plane,aeroplane,jet,aircraft,airliner,jetliner",
    "bus": "coach,minibus,school bus",
    "train": "locomotive,tram,subway train",
    "truck": "lorry,pickup,pickup truck,van,fire truck",
    "boat": "ship,sailboat,canoe,kayak,rowboat,yacht,ferry",
    "traffic light": "traffic signal,stoplight,traffic lights",
    "fire hydrant": "hydrant",
    "stop sign": "stopsign",
    "bench": "park bench",
    "bird": "seagull,pigeon,duck,goose,parrot,owl,eagle,sparrow,hen,rooster,chicken,swan,gull,crow",
    "cat": "kitten,kitty",
    "dog": "puppy,pup,hound,poodle,bulldog",
    "horse": "pony,foal,stallion",
    "sheep": "lamb,ewe",
    "cow": "bull,calf,ox,cattle",
    "bear": "polar bear,grizzly",
    "backpack": "rucksack,knapsack",
    "umbrella": "parasol",
    "handbag": "purse,hand bag",
    "tie": "necktie,bow tie,bowtie",
    "suitcase": "luggage,briefcase",
    "skis": "ski",
    "sports ball": "ball,baseball,basketball,soccer ball,football,tennis ball,volleyball",
    "baseball bat": "bat",
    "baseball glove": "mitt,catcher's mitt",
    "tennis racket": "racket,racquet,tennis racquet",
    "wine glass": "wineglass,goblet",
    "cup": "mug,teacup,coffee cup",
    "sandwich": "burger,hamburger,cheeseburger",
    "hot dog": "hotdog",
    "donut": "doughnut",
    "couch": "sofa,settee,loveseat",
    "chair": "armchair,stool,rocking chair",
    "potted plant": "houseplant,pot plant,house plant",
    "dining table": "kitchen table,coffee table",
    "toilet": "commode",
    "tv": "television,tv set,television set",
    "laptop": "notebook computer,laptop computer",
    "mouse": "computer mouse",
    "remote": "remote control",
    "cell phone": "phone,mobile phone,smartphone,cellphone,mobile,telephone",
    "oven": "stove",
    "refrigerator": "fridge,freezer",
    "clock": "wall clock,alarm clock",
    "vase": "urn",
    "scissors": "shears,pair of scissors",
    "teddy bear": "teddy,stuffed bear",
    "hair drier": "hair dryer,hairdryer,blow dryer",
    "toothbrush": "tooth brush",
    "building-other": "building,tower,church,barn,temple",
    "desk-stuff": "desk",
    "door-stuff": "door",
    "mirror-stuff": "mirror",
    "rug": "carpet rug",
    "clouds": "cloud",
    "leaves": "leaf",
    "stairs": "stair,staircase,steps",
    "plant-other": "plant",
    "food-other": "food",
    "furniture-other": "furniture",
    "window-other": "window",
    "tree": "palm tree,pine tree",
    "flower": "rose,tulip,daisy,sunflower",
    "house": "cottage,cabin,hut",
}
_IRREGULAR = {
    "person": "people", "man": "men", "woman": "women", "child": "children", "knife": "knives",
    "mouse": "mice",
    "sheep": "sheep", "goose": "geese", "calf": "calves", "ox": "oxen", "shelf": "shelves", "leaf": "leaves",
    "fish": "fish", "skis": "skis", "scissors": "scissors", "clothes": "clothes", "stairs": "stairs",
    "aircraft": "aircraft", "cattle": "cattle", "luggage": "luggage", "shears": "shears", "clouds": "clouds",
}  # fmt: skip
# Settings rather than objects: a chunk that names only one of these is where the scene is, not what is in it.
SETTINGS = frozenset(
    words(
        """
    ceiling dirt floor fog grass gravel ground hill mud pavement platform playingfield railroad river road sand
    sea sky snow water wall wood metal plastic cardboard cloth textile structural solid straw moss paper light
    waterdrops food furniture
        """
    )
)


def plural(word: str) -> str:
    """Plural of a noun, or of the last word of a compound."""
    *first, last = word.split()
    if last in _IRREGULAR:
        last = _IRREGULAR[last]
    elif last.endswith(("s", "sh", "ch", "x", "z")):
        last += "es"
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        last = last[:-1] + "ies"
    elif last not in ("men", "women", "children", "people"):
        last += "s"
    return " ".join((*first, last))


def spoken_name(category: str) -> str:
    """How a category is said: "wall-brick" is "brick wall", "desk-stuff" is "desk"."""
    base, _, kind = category.partition("-")
    return base if kind in ("", "other", "stuff") else f"{kind} {base}"


STUFF_NOUNS = sorted(
    {spoken_name(name) for name in STUFF if spoken_name(name) not in SETTINGS and " " not in spoken_name(name)}
)


@lru_cache(maxsize=1)
def word_table() -> dict[tuple[str, ...], str]:
    """Words of a name, synonym or plural, in lower case, to the category."""
    table: dict[tuple[str, ...], str] = {}

    def add(phrase: str, category: str) -> None:
        for form in (phrase, plural(phrase)):
            table.setdefault(tuple(form.split()), category)

    for category in (*THINGS, *STUFF):
        add(spoken_name(category), category)
    for category, line in _SYNONYMS.items():
        separator = None if category == "person" else ","
        for word in line.split(separator):
            add(word.strip(), category)
    return table


def match_category(phrase: Sequence[str]) -> tuple[str, int] | None:
    """The category that the last words of `phrase` (in lower case) name, and how many words name it.

    Whole words are compared: "cathedral" is no cat. None when no category is named.
    """
    table = word_table()
    for start in range(len(phrase)):
        category = table.get(tuple(phrase[start:]))
        if category is not None:
            return category, len(phrase) - start
    return None
