"""Words of the grammar: nouns far beyond any one world, made-up nouns, attributes, places and filler."""

from __future__ import annotations

import random
from dataclasses import dataclass

from layout_predictor.LayoutTransformer.data.categories import STUFF_NOUNS, THINGS
from layout_predictor.LayoutTransformer.data.wordlists import phrases, words

_MORE_NOUNS = words(
    "acorn anchor angel ant apron aquarium arch armchair arrow astronaut axe baby badge bagel balcony "
    "ballerina balloon bamboo barn barrel basket bathtub battery beach beacon beagle bean bee beetle bell "
    "belt bicyclist billboard binder birdcage blackboard blanket boar bonfire bonnet boot box boy "
    "bracelet bread bridge broom brush bucket buffalo bunny bush butterfly button cabin cabinet cactus "
    "cage calculator calf camel camera campfire canary candle canoe canvas cap captain cart castle "
    "caterpillar cauldron cello chandelier chapel chef cherry chest chicken child chimney chipmunk church "
    "cloak cloud clown coat cobra coconut coin compass computer cookie corn cottage cowboy crab cradle "
    "crane crate crayon cricket crocodile crow crown cube cupboard curtain cushion cyclist daisy dancer "
    "deer desk dice dinosaur doctor doll dolphin door dragon drawer dress dresser drill drone drum duck "
    "dustbin eagle easel egg emu engine envelope eraser fairy falcon fan farmer feather fence fern ferry "
    "file fire fireman fireplace fish flag flamingo flask flower flute fly fountain fox frame frog fruit "
    "gate ghost gift girl glasses globe glove goat goose gorilla grape guitar gull hammer hammock hamster "
    "harp hat hawk hedge hedgehog helicopter helmet hen hero hippo hive hook hotel house hut iguana "
    "island jacket jar jeep jellyfish jug juggler kangaroo kayak ketchup kettle key king kitten knight "
    "koala ladder ladybug lake lamb lamp lantern leaf lemon leopard letter lighthouse lightbulb lily lion "
    "lizard llama lobster lock locomotive log magazine magnet mailbox man mango map mask mat melon "
    "mermaid microphone milk mirror mitten mole monkey monster moon moose mop mosque moth mountain mug "
    "mushroom musician necklace needle nest net newspaper notebook nurse nut oak octopus officer onion "
    "ostrich otter owl ox package paddle padlock painter painting palm pan panda paper parachute parcel "
    "park parrot peach peacock peanut pear pearl pebble pelican pen pencil penguin pepper piano pickle "
    "picture pie pig pigeon piglet pilot pine pineapple pipe pirate pitcher plane planet plate plum pony "
    "poodle portrait post poster pot potato priest prince princess printer pumpkin puppet puppy purse "
    "puzzle pyramid queen quilt rabbit raccoon racket radio raft rainbow rake raspberry rat razor ribbon "
    "rifle ring river robe robin robot rocket rod rooster rope rose rug ruler saddle sailboat sailor "
    "salad saucer saw scale scarecrow scarf scooter screen screw seagull seal shark shawl shell shelf "
    "ship shirt shoe shop shovel shrub singer skeleton skirt skull sled slipper snail snake snowman soap "
    "sock sofa soldier spider sponge squid squirrel stair star starfish statue steak stool stove "
    "strawberry sun sunflower swan sweater swing sword table tablet tank taxi teacher teapot telescope "
    "television temple tent throne tiger tire toad toaster tomato torch tortoise towel tower toy tractor "
    "tram tray treasure tree tricycle tripod trophy trumpet trunk tulip turkey turtle typewriter tyre "
    "unicorn vacuum van vest vine violin waiter wagon wall wallet walnut walrus wand wardrobe watch "
    "watermelon well whale wheel wheelbarrow whistle wig window witch wizard wolf woman worker worm "
    "wreath yacht yak zeppelin"
)
_FIRST_PARTS = words(
    "coffee tea fire traffic parking stop tennis baseball wine cell dining teddy potted hair sports hot "
    "police street night toy birthday garden kitchen flower water rubber paper picnic ice school garbage "
    "fishing polar picture alarm wind toilet table bed book apple guard race mail key rocking steam "
    "office computer gas phone"
)
COLOURS = words(
    "red orange yellow green blue purple pink brown black white gray grey silver golden gold beige "
    "turquoise teal navy maroon violet crimson tan"
)
ATTRIBUTES = words(
    "small large big tiny huge little tall short long old new young wooden metal plastic shiny colorful "
    "bright dark rusty vintage modern antique striped spotted round square empty full sleeping smiling "
    "fluffy furry beautiful cute lonely broken dirty clean oncoming parked open closed heavy light soft "
    "hard wet dry happy sad angry hungry strange ornate leather glass porcelain stuffed steaming fresh "
    "ripe polished giant enormous sturdy cozy elegant delicious sleek bare lit glowing floating majestic "
    "playful sliced folded half-eaten well-worn"
)
PEOPLE = words(
    "person man woman boy girl child lady gentleman kid player skier surfer farmer guy worker teacher dancer chef"
)
HE, SHE = {"man", "boy", "gentleman", "guy"}, {"woman", "girl", "lady"}
ALWAYS_PLURAL = {"scissors", "skis", "glasses", "jeans", "people"}
MASS = {"broccoli", "pizza", "cake", "bread", "fruit", "corn", "milk", "salad", "cheese", "rice"}
PLACES = phrases(
    "on the floor; on the ground; in the room; in the kitchen; on the beach; in the park; on the street; "
    "in the sky; in the garden; on the grass; in the field; at the station; in the corner; on the road; "
    "in the water; on the lawn; in the middle of the room; in the center of the image; in the snow; on a "
    "sunny day; in the bathroom; at home; in the office; outside; inside; on display; in the yard; in the "
    "distance; at night; in the living room; in the sun; in the shade; against the wall; by the window; "
    "on the wall; in the forest; on the counter; in the parking lot; on the sidewalk; at the zoo; in the "
    "savannah; on the field; on the slope; on the shore; on the table; on the desk; on the shelf; on the bed; on the "
    "couch; in the chair; on the table in the kitchen; at the table; on the bench; under the tree; by the wall; on the "
    "rug; near the wall; at a desk; on a table; against a fence; in the house"
)
NEAR = phrases(
    "nearby; close by; in the background; in the foreground; in the distance; nearby as well; next to "
    "{O.it}; near {O.it}; beside {O.it}; close to {O}; next to {O}; in the scene; in view; not far away; "
    "a few feet away; as well; behind {O.it}; in front of {O}; behind {O}; in front of {O.it}; right next "
    "to {O}; around; also there"
)
_FILLER_NOUNS = words(
    "contrast scene touch atmosphere view feeling sense sight reminder display look mood light shadow "
    "glow warmth balance picture combination arrangement pattern composition backdrop color day meal game "
    "story breeze conversation trip surface space"
)
_FILLER_VERBS = words(
    "creating adding making giving providing casting offering forming completing bringing showing "
    "enjoying watching making reflecting catching filling blocking waiting leaving taking drawing setting "
    "sharing lending"
)
_FILLER_ADJECTIVES = words(
    "beautiful striking stark lovely cozy colorful interesting nice pleasant vivid unique strange perfect "
    "warm bright peaceful dramatic quiet festive inviting soft long surprising balanced welcome familiar "
    "harmonious curious"
)
_IDLE = phrases(
    "looks {adj}; seems {adj}; shines in the {noun}; glistens in the {noun}; enjoys the {noun}; waits for "
    "its {noun}; gleams; stands out; catches the eye; looks out at the {noun}; is ready for a {noun}; "
    "moves slowly; looks like new; takes up the {noun}; is full of {noun}; was left there; turns right at "
    "the corner; has been left alone; hummed quietly; lay on the ground; drove along the street; stood tall; "
    "soared high in the sky; ticks away; was held aloft; is in the middle of the scene; was put on the table; was "
    "parked on the side of the road; sails in the sky; galloped past; is being used; is surrounded by {adj} things"
)
_IDLE_PLAIN = [
    "rests",
    "waits",
    "is here",
    "sits there quietly",
    "stands alone",
    "gleams",
    "can be seen",
    "is visible",
    "appears",
    "lies there",
]
_ONSETS = words("b c d f g h j k l m n p r s t v w z br cr dr fl gl pl pr sh ch th st sp tr sk bl gr")
_VOWELS = ["a", "e", "i", "o", "u", "a", "e", "i", "o", "ee", "oo", "ai", "ou"]
_CODAS = ["", "", "", "n", "r", "l", "t", "m", "s", "ck", "nd", "sh", "st", "p", "b", "g", "x"]


@dataclass(frozen=True)
class Noun:
    """A noun phrase's core: modifiers that belong to the name, the head, and how it is referred to."""

    head: str
    modifiers: tuple[str, ...] = ()
    plural: bool = False
    mass: bool = False
    person: bool = False

    @property
    def name(self) -> str:
        """Whole name, as it is written after the determiner."""
        return " ".join((*self.modifiers, self.head))


def made_up_word(rng: random.Random) -> str:
    """A pronounceable word that (mostly) means nothing, so that structure has to carry the meaning."""
    count = rng.choice((1, 2, 2, 2, 3))
    return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(count))


def _pluralise(word: str) -> str:
    if word.endswith(("s", "sh", "ch", "x", "z")):
        return word + "es"
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


def make_noun(rng: random.Random) -> Noun:
    """A random noun: COCO things, COCO stuff, other nouns, or made up (about one in six)."""
    draw = rng.random()
    if draw < 0.11:
        word = "person" if rng.random() < 0.5 else rng.choice(PEOPLE)
        return Noun(word, person=True)
    if draw < 0.52:
        name = rng.choice(THINGS).split()
    elif draw < 0.58:
        name = [rng.choice(STUFF_NOUNS)]
    elif draw < 0.83:
        name = [rng.choice(_MORE_NOUNS)]
    else:
        name = [made_up_word(rng)]
    if len(name) == 1 and rng.random() < 0.08:
        name.insert(0, rng.choice(_FIRST_PARTS) if rng.random() < 0.7 else made_up_word(rng))
    head = name[-1]
    plural = head in ALWAYS_PLURAL
    if not plural and rng.random() < 0.05 and head not in MASS:
        head, plural = _pluralise(head), True
    mass = head in MASS and rng.random() < 0.4
    return Noun(head, tuple(name[:-1]), plural=plural, mass=mass, person=head in PEOPLE)


def attributes(rng: random.Random) -> tuple[str, ...]:
    """None, one or two attributes."""
    draw = rng.random()
    if draw < 0.5:
        return ()
    pool = COLOURS if rng.random() < 0.65 else ATTRIBUTES
    first = made_up_word(rng) if rng.random() < 0.04 else rng.choice(pool)
    if draw < 0.92:
        return (first,)
    second = rng.choice(COLOURS)
    return (first, second) if second != first else (first,)


def _fill(rng: random.Random, template: str) -> str:
    return template.format(adj=rng.choice(_FILLER_ADJECTIVES), noun=rng.choice(_FILLER_NOUNS))


def tail(rng: random.Random) -> str:
    """A participle clause that says nothing about positions: "creating a stark contrast in the room"."""
    text = f"{rng.choice(_FILLER_VERBS)} {rng.choice(('a', 'the', 'its own', 'some'))} "
    if rng.random() < 0.7:
        text += rng.choice(_FILLER_ADJECTIVES) + " "
    text += rng.choice(_FILLER_NOUNS) if rng.random() < 0.85 else made_up_word(rng)
    draw = rng.random()
    if draw < 0.25:
        text += f" of {rng.choice(_FILLER_NOUNS)}"
    elif draw < 0.45:
        text += f" to the {rng.choice(_FILLER_NOUNS)}"
    elif draw < 0.55:
        text += " between the two"
    elif draw < 0.7:
        text += " " + rng.choice(PLACES)
    return text


def idle(rng: random.Random, plural: bool) -> str:
    """A verb phrase that says nothing about positions: "looks happy". Plural subjects get a past form."""
    if plural:
        return rng.choice(("waited", "looked " + rng.choice(_FILLER_ADJECTIVES), "shone", "stood out"))
    if rng.random() < 0.3:
        return rng.choice(_IDLE_PLAIN)
    return _fill(rng, rng.choice(_IDLE))
