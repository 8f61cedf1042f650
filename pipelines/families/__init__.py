"""The registry of model families: to add one, write its file and name it here."""

from models.spec import Family as FamilyName
from pipelines.families.base import Family
from pipelines.families.flux import Flux
from pipelines.families.sd import StableDiffusion
from pipelines.families.sdxl import StableDiffusionXL

FAMILIES: dict[FamilyName, type[Family]] = {
    "sd": StableDiffusion,
    "sdxl": StableDiffusionXL,
    "flux": Flux,
}
