"""What the project does on a device that is not the CPU, told in lines of JSON; see `far`.

on_far.py "WHAT [ARGUMENT]"...
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "bundle"), str(ROOT / "tests")]

import far

far.begin()

import numpy as np
import torch
from monai.bundle import run as run_bundle
from monai.data import MetaTensor
from torch.utils import _pytree as pytree

from zerotumor import training
from zerotumor.adaptation import Adapted
from zerotumor.clicks import Click
from zerotumor.diffugts.inpainting import QUALITIES, Quality
from zerotumor.diffusion import samples
from zerotumor.examples import example
from zerotumor.inferer import organ_volume
from zerotumor.learning import learn
from zerotumor.phantom import Phantom, generate
from zerotumor.pipeline import encode_scan, segment_scan
from zerotumor.prompts import parse
from zerotumor.refine import load_refiner
from zerotumor.segmenter import build, load
from zerotumor.selection import descriptor
from zerotumor.text import load_text_encoder
from zerotumor.uncertainty import assess

TEXT = "liver tumor"
QUALITIES["fast"] = Quality(2, 1, 1)
for module in (training, samples):  # phantoms to train on are made on the CPU
    module.generate = far.at_home(module.generate)


def phantom(seed: int = 9, device: str = "cpu") -> Phantom:
    return generate(seed, shape=(14, 14, 14), spacing=8.0, category=TEXT, modality="CT", difficulty=0.0, device=device)


def scan_of(made: Phantom) -> MetaTensor:
    return MetaTensor(made.image, affine=np.diag([*made.spacing, 1.0]))


def check(**found: object) -> None:
    print(json.dumps(found), flush=True)


def mistakes() -> None:
    """What a GPU refuses, and what its mixed precision does."""
    there, here = torch.ones(2, device=far.FAR), torch.ones(2)
    for name, mistake in (("both", lambda: there + here), ("numpy", there.numpy), ("half", far_loss)):
        try:
            mistake()
            check(**{name: "nothing"})
        except (RuntimeError, TypeError) as error:
            check(**{name: str(error)})
    layer = torch.nn.Conv3d(1, 1, 1).to(far.FAR)
    with torch.autocast(far.FAR, torch.bfloat16):
        out = layer(torch.rand(1, 1, 2, 2, 2, device=far.FAR))
        check(conv=str(out.dtype), softmax=str(out.softmax(1).dtype))


def far_loss() -> None:
    with torch.autocast(far.FAR, torch.float16):
        p = torch.rand(3, device=far.FAR)
        torch.nn.functional.binary_cross_entropy(p, p)


def answers(method: str) -> None:
    """A method's answer there and here."""
    scan, masks = scan_of(phantom()), {}
    for device in (far.FAR, "cpu"):
        model = load(method, device=device)
        model = model.at("fast") if "fast" in model.qualities else model
        prompts = parse(TEXT, modality="CT", encoder=model.encoder)
        encoded = encode_scan(model, scan, modality="CT")
        result = segment_scan(model, encoded, prompts)
        masks[device] = result.masks
        kept = {str(f.device) for window in encoded.features.windows for f in window.features.values()}
        weights = {str(p.device) for p in model.parameters()}
        check(device=device, weights=sorted(weights), kept=sorted(kept), voxels=int(result.masks.sum()))
        if device == far.FAR and model.organ_names:
            check(organs=list(organ_volume(model, encoded.prepared.as_tensor(), features=encoded.features).shape[1:]))
            doubts = assess(model, encoded, prompts, passes=1)[0]
            check(value=doubts.value, describes=len(descriptor(model, encoded, prompts)[0]))
    check(different=int((masks[far.FAR] != masks["cpu"]).sum()))


def learned() -> None:
    """A specialist of a tiny method, and its answer."""
    tiny = {"channels": [4, 4, 8, 8, 8], "mask_channels": 4, "heads": 2, "dim": 8, "tokens": 2, "patch": 32}
    model = build("malenia", {**tiny, "spacing": 4.0}).to(far.FAR).eval()
    model.encoder = load_text_encoder()
    model.bank.fill(model.encoder)
    prompt = parse(TEXT, modality="CT", encoder=model.encoder)[0]
    made = [phantom(seed) for seed in (9, 10)]
    encoded = [encode_scan(model, scan_of(one), modality="CT") for one in made]
    corrected = [example(model, e, prompt, p.lesions[0] > 0, str(p.seed)) for e, p in zip(encoded, made, strict=True)]
    specialist = learn(model, prompt, "CT", corrected, steps=1)
    result = segment_scan(Adapted(model, [specialist]), encoded[0], [prompt])
    place = {str(p.device) for p in specialist.parameters()}
    check(specialist=sorted(place), shape=list(result.masks.shape))


def clicked() -> None:
    """A mask after a click, there and here."""
    scan = scan_of(phantom())
    masks = [
        load_refiner(device=device).update(scan, "CT", torch.zeros(scan.shape[1:]), [Click((7, 7, 7), True)])
        for device in (far.FAR, "cpu")
    ]
    check(voxels=int(masks[0].sum()), different=int((masks[0] != masks[1]).sum()))


def drawn(region: str) -> None:
    """A phantom there and here."""
    there, here = (
        generate(5, shape=(24,) * 3, spacing=7.0, category="abstract lesion", region=region, device=device)
        for device in (far.FAR, "cpu")
    )
    check(
        device=str(there.image.device), image=bool(torch.allclose(there.image.cpu(), here.image)),
        maps=bool((there.organs.cpu() == here.organs).all() and (there.lesions.cpu() == here.lesions).all()),
    )  # fmt: skip


def trained(folder: str) -> None:
    """A step of each network's training by the configs of the bundle, in bfloat16; what comes out of it."""
    shared = {"dataset_dir": f"{folder}/phantoms"}
    small = {"network_config::channels": [4] * 5, "network_config::mask_channels": 2, "network_config::patch": 32}
    ae = {"num_channels": [4, 4, 8], "num_res_blocks": [1, 1, 1], "norm_num_groups": 4}
    unet = {"num_channels": [8, 8], "num_res_blocks": 1, "attention_levels": [False, True], "num_head_channels": [0, 8],
            "norm_num_groups": 4}  # fmt: skip
    out = {name: str(Path(folder) / name) for name in ("malenia", "zept", "refine", "autoencoder", "unet", "attention")}
    crops = {"patch": 16, "spacing": 8.0}
    tiny = {"network_config::patch": 16, "network_config::fusion_hidden": 4, "network_config::wordings": 1,
            "network_config::prior": {"autoencoder": ae, "unet": unet}}  # fmt: skip
    runs = {
        "malenia": ("train", shared | small | {"network_config::dim": 8, "network_config::tokens": 3}),
        "zept": ("train zept zept_train", shared | small | {"network_config::width": 8, "network_config::heads": 2}),
        "refine": ("train_refine", {k: v for k, v in small.items() if "patch" not in k} | {"edge": 32, "sample_edge": 40}),
        "autoencoder": ("diffusion_autoencoder", crops | {"crop": 16, "network_config": ae}),
        "unet": ("diffusion_unet", crops | {
            "autoencoder_weights": f"{out['autoencoder']}/autoencoder.pt", "unet_config": unet}),
        "attention": ("train diffugts diffugts_attention", tiny | {"prior_weights": f"{out['unet']}/diffusion.pt"}),
    }  # fmt: skip
    short = {"epoch_length": 1, "max_epochs": 1, "train_count": 2, "val_count": 1, "batch_size": 2}
    for name, (configs, own) in runs.items():
        files = [str(ROOT / "bundle" / "configs" / f"{config}.yaml") for config in configs.split()]
        run_bundle(
            config_file=files, bundle_root=str(ROOT / "bundle"), logging_file=False, output_dir=out[name], workers=0,
            val_interval=1 if name == "malenia" else 2,
            device="$torch.device('far')", bf16=True, **short, **own,
        )  # fmt: skip
        weights = pytree.tree_leaves(torch.load(Path(out[name]) / "checkpoint_epoch=1.pt", weights_only=True)["model"])
        check(trained=name, finite=all(bool(torch.isfinite(one.float()).all()) for one in weights))


if __name__ == "__main__":
    torch.set_num_threads(1)
    known = {f.__name__: f for f in (mistakes, answers, learned, clicked, drawn, trained)}
    for command in sys.argv[1:]:
        name, *arguments = command.split(maxsplit=1)
        with far.far_away():
            known[name](*arguments)
