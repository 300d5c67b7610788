"""The paradigms against kornia, lightly, timm, diffusers, torchvision: same weights, same loss; same law of views."""

import math
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from nbutils.paradigms import DDPM, MAE, nt_xent, untrained
from nbutils.paradigms.ddpm import ResidualBlock, noise_schedule, q_sample, time_embedding
from nbutils.paradigms.mae import Block, MaskedEncoder, patchify, positions, random_order, unpatchify
from nbutils.paradigms.simclr import blend, crop_boxes, grey, resize_weights, rotate_hue
from nbutils.torchvision import torchvision

Peer = Callable[[str], ModuleType]


def close(found: Tensor, wanted: Tensor, atol: float) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=atol)


# --- SimCLR -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("temperature", [0.5, 0.07])
def test_nt_xent_and_its_gradient_are_lightlys(temperature: float, peer: Peer, generator: torch.Generator) -> None:
    loss = peer("lightly.loss").NTXentLoss(temperature)
    ours = torch.randn(64, 32, generator=generator, dtype=torch.float64).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    found, wanted = nt_xent(ours, temperature), loss(theirs[:32], theirs[32:])
    close(found, wanted, 1e-12)
    found.backward()
    wanted.backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    close(ours.grad, theirs.grad, 1e-12)


@pytest.mark.parametrize("library", ["torchvision", "kornia"])
def test_crops_follow_the_law_of_the_peers(library: str, peer: Peer) -> None:
    """Heights, widths and places of 6,000 crops of a 32 x 32 image: Kolmogorov-Smirnov, p > .001 each."""
    n = 6000
    ours = crop_boxes(n, 32, 32, (0.2, 1.0), torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    if library == "torchvision":
        draw = torchvision.transforms.RandomResizedCrop.get_params
        theirs = torch.tensor([draw(torch.zeros(3, 32, 32), [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(n)]).T
    else:
        crop = peer("kornia.augmentation").RandomResizedCrop((32, 32), (0.2, 1.0))
        corners = crop.generate_parameters(torch.Size((n, 3, 32, 32)))["src"]
        size = corners[:, 2] - corners[:, 0] + 1
        theirs = torch.stack([corners[:, 0, 1], corners[:, 0, 0], size[:, 1], size[:, 0]])
    for part in range(4):
        assert stats.ks_2samp(ours[part], theirs[part].double()).pvalue > 1e-3, part
    area = [boxes[2] * boxes[3] for boxes in (ours, theirs.double())]
    assert stats.ks_2samp(*area).pvalue > 1e-3


def test_crops_are_resized_as_torchvision_does(generator: torch.Generator) -> None:
    x = torch.rand(30, 3, 32, 32, generator=generator, dtype=torch.float64)
    boxes = crop_boxes(30, 32, 32, (0.2, 1.0), generator)
    flat = torch.zeros(30, dtype=torch.bool)
    down, across = (resize_weights(boxes[i], boxes[i + 2], 32, flat) for i in (0, 1))
    found = down[:, None] @ x @ across.mT[:, None]
    for i in range(30):
        box = [int(value) for value in boxes[:, i]]
        close(found[i], torchvision.transforms.functional.resized_crop(x[i], *box, [32, 32], antialias=False), 1e-12)


@pytest.mark.parametrize("library", ["torchvision", "kornia"])
def test_colours_change_as_in_the_peers(library: str, peer: Peer, generator: torch.Generator) -> None:
    """torchvision's grey weights are rounded otherwise, by up to 1e-4."""
    x = torch.rand(20, 3, 8, 8, generator=generator, dtype=torch.float64)
    level = grey(x)
    for factor in (0.6, 0.9, 1.0, 1.4):
        ours = [blend(x, 0 * x, torch.tensor(factor)), blend(x, level.mean((2, 3), keepdim=True), torch.tensor(factor)),
                blend(x, level, torch.tensor(factor))]
        if library == "torchvision":
            change = torchvision.transforms.functional
            theirs = [change.adjust_brightness(x, factor), change.adjust_contrast(x, factor),
                      change.adjust_saturation(x, factor)]
        else:
            change = peer("kornia.enhance")
            theirs = [change.adjust_brightness_accumulative(x, factor),
                      change.adjust_contrast_with_mean_subtraction(x, factor),
                      change.adjust_saturation_with_gray_subtraction(x, factor)]
        for found, wanted in zip(ours, theirs, strict=True):
            close(found, wanted, 3e-4 if library == "torchvision" else 1e-6)
    for turn in (-0.1, -0.03, 0.05, 0.1):
        found = rotate_hue(x, torch.full((20,), turn))
        if library == "torchvision":
            close(found, torchvision.transforms.functional.adjust_hue(x, turn), 1e-6)
        else:
            close(found, peer("kornia.enhance").adjust_hue(x, 2 * math.pi * turn), 1e-5)


# --- MAE ----------------------------------------------------------------------------------------------------------

def test_patches_are_lightlys(peer: Peer, generator: torch.Generator) -> None:
    utils, x = peer("lightly.models.utils"), torch.rand(3, 3, 32, 32, generator=generator)
    assert torch.equal(patchify(x, 4), utils.patchify(x, 4))
    assert torch.equal(unpatchify(patchify(x, 4), 4), utils.unpatchify(utils.patchify(x, 4), 4))


def test_positions_are_lightlys(peer: Peer) -> None:
    wanted = peer("lightly.models.utils").get_2d_sine_cosine_positional_embedding(64, 8, cls_token=False)
    close(positions(8, 64)[0], torch.tensor(wanted, dtype=torch.float32), 1e-6)


def copy_block(ours: Block, theirs: nn.Module) -> None:
    """Put our weights into timm's block."""
    names = {"norm1": "norm1", "norm2": "norm2", "qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1",
             "fc2": "mlp.fc2"}
    for name, their_name in names.items():
        theirs.get_submodule(their_name).load_state_dict(ours.get_submodule(name).state_dict())
    for name in ("norm1", "norm2"):
        theirs.get_submodule(name).eps = 1e-5  # type: ignore[assignment]


def test_a_block_is_timms(peer: Peer, generator: torch.Generator) -> None:
    ours, theirs = Block(64, 4), peer("timm.models.vision_transformer").Block(64, 4, qkv_bias=True)
    copy_block(ours, theirs)
    z = torch.randn(5, 17, 64, generator=generator)
    close(ours(z), theirs(z), 1e-5)


def masked_pair(peer: Peer) -> tuple[MaskedEncoder, nn.Module, nn.Module]:
    """Our masked encoder with its decoder, and timm's and lightly's with the same weights."""
    ours = untrained(MAE(patch=4, width=64, depth=2, decoder_width=32, decoder_depth=1))
    assert isinstance(ours, MaskedEncoder)
    vit = peer("timm.models.vision_transformer").VisionTransformer(
        img_size=32, patch_size=4, embed_dim=64, depth=2, num_heads=4, num_classes=0, global_pool="token")
    modules = peer("lightly.models.modules")
    encoder = modules.MaskedVisionTransformerTIMM(vit)
    decoder = modules.MAEDecoderTIMM(num_patches=64, patch_size=4, embed_dim=64, decoder_embed_dim=32, decoder_depth=1,
                                     decoder_num_heads=4)
    with torch.no_grad():
        weight = ours.embed.weight.view(64, 4, 4, 3).permute(0, 3, 1, 2)
        vit.patch_embed.proj.weight.copy_(weight)
        vit.patch_embed.proj.bias.copy_(ours.embed.bias)
        vit.cls_token.copy_(ours.cls)
        vit.pos_embed.copy_(torch.cat([torch.zeros(1, 1, 64), positions(8, 64)], 1))
        decoder.decoder_embed.load_state_dict(ours.widen.state_dict())
        decoder.mask_token.copy_(ours.hidden)
        decoder.decoder_pos_embed.copy_(torch.cat([torch.zeros(1, 1, 32), positions(8, 32)], 1))
        for blocks, theirs in ((ours.encoder, vit.blocks), (ours.decoder, decoder.decoder_blocks)):
            for block, their_block in zip(blocks, theirs, strict=False):
                copy_block(block, their_block)  # type: ignore[arg-type]
        vit.norm.load_state_dict(ours.encoder[-1].state_dict())
        decoder.decoder_norm.load_state_dict(ours.decoder[-2].state_dict())
        decoder.decoder_pred.load_state_dict(ours.decoder[-1].state_dict())
    vit.norm.eps = decoder.decoder_norm.eps = 1e-5
    return ours, encoder.eval(), decoder.eval()


def test_masked_features_and_loss_are_timms_and_lightlys(peer: Peer, generator: torch.Generator) -> None:
    ours, encoder, decoder = masked_pair(peer)
    x = torch.rand(6, 3, 32, 32, generator=generator)
    seen = ours.normalize(x)
    with torch.no_grad():
        close(ours.features(x), encoder.vit(seen), 1e-5)  # type: ignore[operator]
        state = generator.get_state()
        order = random_order(6, 64, generator)
        generator.set_state(state)  # the objective draws the same masks again
        found = ours.reconstruct(ours.patches(x), order, 16)
        keep = torch.cat([torch.zeros(6, 1, dtype=torch.int64), 1 + order[:, :16]], 1)  # they count the CLS token
        z = decoder.embed(encoder.encode(images=seen, idx_keep=keep))  # type: ignore[operator]
        tokens = decoder.mask_token.repeat(6, 65, 1)  # type: ignore[operator]
        tokens = tokens.scatter(1, keep[:, :, None].expand(-1, -1, 32), z)
        decoded = decoder.predict(decoder.decode(tokens))[:, 1:]  # type: ignore[operator]
        close(found, decoded, 1e-5)
        hidden = order[:, 16:, None].expand(-1, -1, 48)
        wanted = nn.functional.mse_loss(decoded.gather(1, hidden), ours.patches(x).gather(1, hidden))
        loss = MAE(patch=4, width=64, depth=2, decoder_width=32)(ours, x, x, generator)
        close(loss, wanted, 1e-6)


# --- DDPM ---------------------------------------------------------------------------------------------------------

def test_schedule_and_noised_images_are_those_of_diffusers(peer: Peer, generator: torch.Generator) -> None:
    scheduler = peer("diffusers").DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", beta_start=1e-4,
                                                beta_end=0.02)
    beta, alpha_bar = noise_schedule()
    close(beta.float(), scheduler.betas, 1e-8)
    close(alpha_bar.float(), scheduler.alphas_cumprod, 1e-6)
    x0, noise = torch.randn(2, 50, 3, 8, 8, generator=generator)
    t = torch.randint(1000, (50,), generator=generator)
    close(q_sample(x0, t, noise), scheduler.add_noise(x0, noise, t), 1e-5)


def test_time_embeddings_are_those_of_diffusers(peer: Peer) -> None:
    embed = peer("diffusers.models.embeddings").get_timestep_embedding
    t = torch.tensor([0, 1, 11, 500, 999])
    close(time_embedding(t, 32), embed(t, 32, flip_sin_to_cos=True, downscale_freq_shift=0), 1e-4)


@pytest.mark.parametrize(("before", "after"), [(16, 16), (16, 32)])
def test_a_residual_block_is_that_of_diffusers(before: int, after: int, peer: Peer, generator: torch.Generator) -> None:
    ours = ResidualBlock(before, after, 64)
    theirs = peer("diffusers.models.resnet").ResnetBlock2D(in_channels=before, out_channels=after, temb_channels=64,
                                                           groups=8, eps=1e-5)
    names = {"norm1": "norm1", "norm2": "norm2", "conv1": "conv1", "conv2": "conv2", "time": "time_emb_proj"}
    if before != after:
        names["shortcut"] = "conv_shortcut"
    for name, their_name in names.items():
        theirs.get_submodule(their_name).load_state_dict(ours.get_submodule(name).state_dict())
    z, time = torch.randn(4, before, 8, 8, generator=generator), torch.randn(4, 64, generator=generator)
    close(ours(z, time), theirs(z, time), 1e-5)


def test_the_loss_of_a_diffusion_step_is_that_of_diffusers(peer: Peer, generator: torch.Generator) -> None:
    """Their scheduler noises the images, our network predicts: the mean square is our objective."""
    scheduler = peer("diffusers").DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", beta_start=1e-4,
                                                beta_end=0.02)
    paradigm = DDPM(width=8, factors=(1, 2), space_to_depth=2)
    model = untrained(paradigm)
    x = torch.rand(16, 3, 16, 16, generator=generator)
    loss = paradigm(model, x, x, torch.Generator().manual_seed(7))  # type: ignore[arg-type]
    draws = torch.Generator().manual_seed(7)
    x0 = nn.functional.pixel_unshuffle(2 * x - 1, 2)
    t = torch.randint(1000, (16,), generator=draws)
    noise = torch.randn(x0.shape, generator=draws)
    predicted = model.layers(scheduler.add_noise(x0, noise, t), t)["noise"]  # type: ignore[operator]
    close(loss, nn.functional.mse_loss(predicted, noise), 1e-5)
