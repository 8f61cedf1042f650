"""What Stability's repository (generative-models, "sgm") calls the layers of SDXL's UNet. Knows names, no model.

kohya trains SDXL in that layout, SD 1.x in diffusers' own.
"""

import re

# The layers of a residual block.
RESNET_LAYERS = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
OUTER_LAYERS = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
OWN_NAMES = ("input_blocks.", "middle_block.", "output_blocks.", "time_embed.", "label_emb.", "out.")
# Three levels; on each two residual blocks and a downsampler on the way down, three blocks on the way up.
DOWN = re.compile(r"down_blocks\.([0-2])\.(resnets|attentions)\.([01])\.(.+)")
DOWNSAMPLER = re.compile(r"down_blocks\.([01])\.downsamplers\.0\.conv")
MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.([01])\.(.+)")
UP = re.compile(r"up_blocks\.([0-2])\.(resnets|attentions)\.([0-2])\.(.+)")
UPSAMPLER = re.compile(r"up_blocks\.([01])\.upsamplers\.0\.conv")


def sdxl_layer(path: str) -> str | None:
    """From diffusers' name of a layer of SDXL's UNet, or sgm's own; None for what SDXL does not have."""
    if path.startswith(OWN_NAMES):
        return path
    if path in OUTER_LAYERS:
        return OUTER_LAYERS[path]
    if match := DOWN.fullmatch(path):
        level, kind, number, layer = match.groups()
        return f"input_blocks.{3 * int(level) + int(number) + 1}.{_inner(kind, layer)}"
    if match := UP.fullmatch(path):
        level, kind, number, layer = match.groups()
        return f"output_blocks.{3 * int(level) + int(number)}.{_inner(kind, layer)}"
    if match := MIDDLE.fullmatch(path):
        kind, number, layer = match.groups()
        return f"middle_block.{1 if kind == 'attentions' else 2 * int(number)}.{RESNET_LAYERS.get(layer, layer)}"
    if match := DOWNSAMPLER.fullmatch(path):
        return f"input_blocks.{3 * int(match[1]) + 3}.0.op"
    if match := UPSAMPLER.fullmatch(path):
        return f"output_blocks.{3 * int(match[1]) + 2}.2.conv"
    return None


def _inner(kind: str, layer: str) -> str:
    return f"1.{layer}" if kind == "attentions" else f"0.{RESNET_LAYERS.get(layer, layer)}"
