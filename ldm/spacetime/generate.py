"""`generate` under the name by which the documentation introduced it; its home is `ldm.generation.generate`."""

from ldm.generation.generate import GenerateSettings as GenerateSettings
from ldm.generation.generate import generate as generate
