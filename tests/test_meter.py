"""meter.py: closed forms, counts by hand, and what real computations on the CPU take."""

import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from omgsr_lib.lora import CONVOLUTIONS_AND_ATTENTION, add_lora
from omgsr_lib.priors import DDPMPrior, FlowPrior
from omgsr_lib.priors.latents import encode_latents
from omgsr_lib.priors.tiny import tiny_autoencoder
from omgsr_lib.utils.memory import meta_twin
from omgsr_lib.utils.meter import Count, Meter, count


class Box:
    def __init__(self, tensor):
        self.tensor = tensor


def kept_in_reality(function, modules):
    """Bytes that autograd keeps on the CPU after `function`."""
    parameters = {t.untyped_storage().data_ptr() for m in modules for t in (*m.parameters(), *m.buffers())}
    boxes = weakref.WeakSet()

    def pack(tensor):
        boxes.add(box := Box(tensor))
        return box

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.tensor):
        output = function()
    assert output.requires_grad
    storages = {box.tensor.untyped_storage().data_ptr(): box.tensor.untyped_storage() for box in boxes}
    return sum(storage.nbytes() for pointer, storage in storages.items() if pointer not in parameters)


def meta(*shape, dtype=torch.float32, grad=False):
    return torch.empty(*shape, dtype=dtype, device="meta", requires_grad=grad)


def test_linear_and_convolution_in_closed_form():
    linear = nn.Linear(12, 20, device="meta")
    macs = 5 * 12 * 20
    assert count(lambda: linear(meta(5, 12)), [linear]).flops == 2 * macs * 2  # no gradient of the input
    assert count(lambda: linear(meta(5, 12, grad=True)), [linear]).flops == 2 * macs * 3
    linear.requires_grad_(False)
    assert count(lambda: linear(meta(5, 12)), [linear]) == Count(flops=2 * macs)
    assert count(lambda: linear(meta(5, 12, grad=True)), [linear]) == Count(
        flops=2 * macs * 2
    )  # keeps its weight only
    conv = nn.Conv2d(4, 6, 3, padding=1, device="meta")
    found = count(lambda: conv(meta(2, 4, 8, 8, grad=True)), [conv])
    assert found == Count(flops=2 * (2 * 8 * 8 * 4 * 6 * 9) * 3, kept=2 * 4 * 8 * 8 * 4, peak=2 * 4 * 8 * 8 * 4)


def test_flops_equal_those_of_torchs_counter():
    prior = DDPMPrior.tiny().to("meta")
    add_lora(prior.denoiser, 4, DDPMPrior.lora_targets)
    with FlopCounterMode(display=False) as counter:
        found = count(lambda: prior(meta(1, 4, 16, 16, grad=True), 200), [prior])
    assert found.flops == counter.get_total_flops() > 0


def test_attention_is_fused():
    """Linear memory: q, k, v, the result and a number per row; the backward pass computes the scores again."""
    tokens, width = 256, 32
    queries = [meta(1, 2, tokens, width, grad=True) for _ in range(3)]
    found = count(lambda: F.scaled_dot_product_attention(*queries), [])
    product = 2 * 2 * tokens * tokens * width
    assert found.flops == product * 2 + product * 5
    tensors = 4 * 2 * tokens * width * 4 + 2 * tokens * 4
    assert tensors <= found.kept <= tensors + 64 and found.peak == found.kept  # and the state of a random generator


def test_autocast_of_matrix_products_equals_the_cpus():
    """Both cast linear layers, convolutions and attention to bfloat16."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 8)

        def forward(self, x):
            tokens = F.silu(self.conv(x)).flatten(2).transpose(1, 2)
            heads = self.linear(tokens).unflatten(-1, (1, 8)).transpose(1, 2)
            return F.scaled_dot_product_attention(heads, heads, heads)

    block, pixels = Block(), torch.randn(1, 8, 16, 16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        expected = kept_in_reality(lambda: block(pixels), [block])
    block = Block().to("meta")
    found = count(lambda: block(meta(1, 8, 16, 16, grad=True)), [block], autocast=True)
    assert found.kept == pytest.approx(expected, abs=64)


def test_autocast_of_normalisation_is_float32():
    norm = nn.GroupNorm(2, 8).to("meta", torch.bfloat16).requires_grad_(False)
    pixels = meta(1, 8, 16, 16, dtype=torch.bfloat16, grad=True)
    moments = 2 * 2  # mean and deviation of two groups
    assert count(lambda: norm(pixels), [norm]).kept == 8 * 256 * 2 + moments * 2
    assert count(lambda: norm(pixels), [norm], autocast=True).kept == 8 * 256 * 4 + moments * 4 + 8 * 4  # its gain


@pytest.mark.parametrize("part", ["encoder", "decoder", "ddpm", "flow"])
def test_kept_tensors_equal_those_of_the_cpu(part):
    if part == "encoder":
        module = tiny_autoencoder()
        add_lora(module.encoder, 4, CONVOLUTIONS_AND_ATTENTION)
        functions = [lambda m, x: encode_latents(m, x), torch.randn(2, 3, 64, 64)]
    elif part == "decoder":
        module = tiny_autoencoder().requires_grad_(False)
        functions = [lambda m, x: m.decode(x).sample, torch.randn(2, 4, 8, 8, requires_grad=True)]
    else:
        module = {"ddpm": DDPMPrior.tiny, "flow": FlowPrior.tiny}[part]()
        add_lora(module.denoiser, 4, module.lora_targets)
        functions = [lambda m, x: m(x, 200), torch.randn(2, 4, 16, 16, requires_grad=True)]
    function, batch = functions
    expected = kept_in_reality(lambda: function(module, batch), [module])
    module, batch = module.to("meta"), batch.detach().to("meta").requires_grad_(batch.requires_grad)
    assert count(lambda: function(module, batch), [module]).kept == pytest.approx(expected, rel=0.01)


def flux(blocks, single_blocks):
    options = dict(heads=2, head_axes=(4, 6, 6), prompt_width=16, seed=0)
    prior = FlowPrior.new(4, blocks=blocks, single_blocks=single_blocks, **options)
    add_lora(prior.denoiser, 4, FlowPrior.lora_targets)
    return prior.to("meta")


def test_checkpointing_keeps_the_inputs_of_the_blocks_and_computes_them_twice():
    latents = meta(1, 4, 16, 16, grad=True)

    def counts(blocks, single_blocks):
        prior = flux(blocks, single_blocks)
        plain = count(lambda: prior(latents, 200), [prior])
        return plain, count(lambda: prior(latents, 200), [prior], recomputed=prior.denoiser), prior

    plain, checkpointed, prior = counts(1, 1)
    with torch.no_grad():
        forward = count(lambda: prior(latents, 200), [prior]).flops
    width, image, text, rank = 32, 64, 4, 4
    outside = 2 * (image * 16 * width + image * rank * (16 + width) + text * 16 * width)  # embedders of the tokens
    outside += 2 * (
        2 * (256 * width + width * width) + 16 * width + width * width
    )  # of time and guidance, of the text
    outside += 2 * (width * 2 * width + image * width * 16)  # modulation and projection of the result
    assert checkpointed.flops - plain.flops == forward - outside
    assert not prior.denoiser.is_gradient_checkpointing
    largest = 0
    for blocks in ((2, 1), (1, 2)):
        deeper, checkpointed_deeper, _ = counts(*blocks)
        assert checkpointed_deeper.kept - checkpointed.kept == (image + text) * width * 4
        largest = max(largest, deeper.kept - plain.kept)  # what one block keeps
        assert 0 <= checkpointed_deeper.peak - checkpointed.peak < 1.1 * (image + text) * width * 4  # about one input
    assert largest < checkpointed.peak < largest + checkpointed.kept < plain.kept == plain.peak


def test_what_a_part_with_its_own_backward_pass_kept_is_given_back():
    """Four layers that keep their input each: two halves with a gradient in between peak at two of them."""
    layers = nn.Sequential(*(nn.Tanh() for _ in range(4)))  # tanh keeps its result
    rows = [meta(100, 10, grad=True) for _ in range(2)]

    def in_halves():
        for part in rows:
            torch.autograd.grad(layers(part).sum(), part)
        return meta(1)

    assert count(in_halves, []) == Count(flops=0, kept=0, peak=4 * 100 * 10 * 4)
    together = count(lambda: layers(torch.cat(rows)), [])
    assert together == Count(flops=0, kept=2 * 4 * 100 * 10 * 4, peak=2 * 4 * 100 * 10 * 4)


KIB = 1024


def kib(count, device="cpu"):
    return torch.zeros(count * KIB // 4, device=device)


def peak(function):
    with Meter() as meter:
        function()
    return meter.peak // KIB


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_live_bytes_by_hand(device):
    outside = kib(64, device)

    def freed_as_it_goes():  # input not counted; at most two results at a time
        x = outside + 1
        for _ in range(5):
            x = x.exp()

    def kept():
        return [outside.exp() for _ in range(5)]

    def in_place_and_views():
        x = outside + 1
        x.view(2, -1)[0].mul_(2).add_(1)
        return x.t()

    def largest_first():  # at the copy: x, the whole product, its part
        x = outside + 1
        x = (x * 2)[: 2 * KIB].clone()
        return x, x + 1, x + 2

    assert peak(freed_as_it_goes) == 2 * 64
    assert peak(kept) == 5 * 64
    assert peak(in_place_and_views) == 64
    assert peak(largest_first) == 64 + 64 + 8


def test_attention_counts_without_its_table_on_the_meta_device():
    query = torch.empty(1, 2, 1000, 16, device="meta")
    with Meter() as meter:
        F.scaled_dot_product_attention(query, query, query)
        F.scaled_dot_product_attention(query=query, key=query, value=query)
        F.scaled_dot_product_attention(query, query, query, attn_mask=query.new_empty(1, 1, 1, 1000))
    assert 0 <= meter.peak - query.nbytes - 2 * 1000 * 4 <= 64  # a number per row, the state of a random generator
    assert meter.flops == 3 * 2 * (2 * 2 * 1000 * 1000 * 16)


def test_a_network_counts_alike_on_the_meta_device():
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv2d(8, 8, 3, stride=2)]
    network = torch.nn.Sequential(*layers).requires_grad_(False)
    sides = (network, "cpu"), (meta_twin(network), "meta")
    peaks = [peak(lambda m=module, d=device: m(torch.zeros(1, 3, 64, 64, device=d))) for module, device in sides]
    assert peaks == [(3 + 8 + 8) * 64 * 64 * 4 // KIB] * 2  # the input, and both sides of the activation
