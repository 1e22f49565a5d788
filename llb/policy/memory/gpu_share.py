"""GPU share: the layers and other weights of a model that lie on one GPU. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from llb.policy.memory.model_shape import Layer, ModelShape


class GpuShare(Struct, frozen=True, kw_only=True):
    """Part of a model on one GPU. A GPU without layers is used too where llama.cpp splits over several."""

    layers: tuple[Layer, ...] = ()
    # Number of the first of them among all layers.
    first_layer: int = 0
    # The first ones of these layers, whose experts are in RAM, and the bytes of these experts.
    host_expert_layers: int = 0
    host_expert_bytes: int = 0
    has_output: bool = False
    has_projector: bool = False
    is_used: bool = False

    def weight_bytes(self, shape: ModelShape) -> int:
        """Return the weights on this GPU."""
        total = sum(layer.weight_bytes for layer in self.layers) - self.host_expert_bytes
        if self.has_output:
            total += output_gpu_bytes(shape)
        if self.has_projector:
            total += shape.projector_bytes
        return total


def assign_layers(
    shape: ModelShape, gpu_layers: Sequence[int], expert_layers_on_host: int = 0
) -> tuple[GpuShare, ...]:
    """Return what is placed on each GPU for these numbers of layers, of which the output is the last one."""
    total = sum(gpu_layers)
    position = max(0, shape.max_gpu_layers - total)
    used = [index for index, count in enumerate(gpu_layers) if count]
    shares = []
    for index, count in enumerate(gpu_layers):
        end = min(position + count, shape.max_gpu_layers)
        shares.append(
            GpuShare(
                layers=shape.layers[position:end],
                first_layer=position,
                host_expert_layers=max(0, min(end, expert_layers_on_host, len(shape.layers)) - position),
                host_expert_bytes=sum(
                    layer.expert_bytes for layer in shape.layers[position : min(end, expert_layers_on_host)]
                ),
                has_output=count > 0 and end == shape.max_gpu_layers and position < end,
                has_projector=shape.projector_bytes > 0 and bool(used) and index == used[0],
                is_used=index in used or len(used) > 1,
            )
        )
        position = end
    return tuple(shares)


def output_gpu_bytes(shape: ModelShape) -> int:
    """Return the bytes of the output on a GPU; a tied one is a second input matrix (`TENSOR_DUPLICATED`)."""
    tied_bytes = 0 if shape.is_encoder else shape.input_bytes
    return (shape.output_bytes or tied_bytes) + shape.output_norm_bytes
