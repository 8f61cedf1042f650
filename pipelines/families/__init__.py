"""The registry of model families: to add one, write its file and name it here."""

from models.spec import Family as FamilyName
from pipelines.families.base import Family
from pipelines.families.flux import Flux
from pipelines.families.qwen_image import QwenImage
from pipelines.families.sd import StableDiffusion
from pipelines.families.sd3 import StableDiffusion3
from pipelines.families.sdxl import StableDiffusionXL
from pipelines.families.z_image import ZImage

FAMILIES: dict[FamilyName, type[Family]] = {
    "sd": StableDiffusion,
    "sdxl": StableDiffusionXL,
    "flux": Flux,
    "sd3": StableDiffusion3,
    "z-image": ZImage,
    "qwen-image": QwenImage,
}
