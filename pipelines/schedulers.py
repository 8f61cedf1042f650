"""The schedulers that a request may name, for each family. Without torch, so that the door can check names."""

from dataclasses import dataclass, field

from models.spec import Family


@dataclass(frozen=True, slots=True)
class SchedulerRecipe:
    """How a named scheduler is made from the one in the model's folder, and what other programs call it."""

    class_name: str  # in diffusers
    sampler: str  # as A1111 writes it into pictures
    overrides: dict[str, object] = field(default_factory=dict)


DIFFUSION: dict[str, SchedulerRecipe] = {
    "euler": SchedulerRecipe("EulerDiscreteScheduler", "Euler", {"use_karras_sigmas": False}),
    "euler-a": SchedulerRecipe("EulerAncestralDiscreteScheduler", "Euler a"),
    # Clipping is meant for pixels; latents go beyond ±1, and a folder made for another scheduler may not say so.
    "ddim": SchedulerRecipe("DDIMScheduler", "DDIM", {"clip_sample": False}),
    "dpm++2m": SchedulerRecipe(
        "DPMSolverMultistepScheduler", "DPM++ 2M", {"algorithm_type": "dpmsolver++", "use_karras_sigmas": False}
    ),
    "dpm++2m-karras": SchedulerRecipe(
        "DPMSolverMultistepScheduler", "DPM++ 2M Karras", {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True}
    ),
    "unipc": SchedulerRecipe("UniPCMultistepScheduler", "UniPC"),
    "lcm": SchedulerRecipe("LCMScheduler", "LCM"),
}
FLOW: dict[str, SchedulerRecipe] = {"flow-euler": SchedulerRecipe("FlowMatchEulerDiscreteScheduler", "Euler")}

SCHEDULERS: dict[Family, dict[str, SchedulerRecipe]] = {
    "sd": DIFFUSION,
    "sdxl": DIFFUSION,
    "flux": FLOW,
    "sd3": FLOW,
    "z-image": FLOW,
    "qwen-image": FLOW,
}


def get_scheduler(family: Family, name: str) -> SchedulerRecipe:
    """The recipe called `name`; ValueError lists those that the family knows."""
    recipes = SCHEDULERS[family]
    if name not in recipes:
        raise ValueError(f"scheduler {name!r} is not one of this model's: {', '.join(recipes)}")
    return recipes[name]


def sampler_name(class_name: str, *, has_karras_sigmas: bool = False) -> str:
    """What A1111 calls a diffusers scheduler class; the class's own name where A1111 has none."""
    samplers = {
        recipe.class_name: recipe.sampler
        for recipe in (*DIFFUSION.values(), *FLOW.values())
        if not recipe.overrides.get("use_karras_sigmas")
    }
    name = samplers.get(class_name, class_name.removesuffix("Scheduler"))
    return f"{name} Karras" if has_karras_sigmas else name
