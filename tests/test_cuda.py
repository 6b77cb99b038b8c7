"""Would it run on a GPU? Here are tensors that say "cuda" and hold nothing, so none is needed.

torch's FakeTensorMode computes shapes, dtypes and devices alone. A CPU tensor that meets a CUDA
one raises, and so does what makes the host wait for a value: .item(), `if tensor`, nonzero. (The
backward pass is torch's own and asks for a real device.)
"""
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import data
import models
from rekd import cls_losses, kd_losses, re_losses, rekd_losses, teacher_outputs

SHAPES = {"vit": dict(image_size=16, patch_size=4), "bert": dict(vocab_size=50, max_len=12)}
MODE = FakeTensorMode()
KD = dict(alpha=0.5, lambda_rationale=0.5)
STEPS = {
    "cls": lambda model, teacher, x, y, **_: cls_losses(model, x, y),
    "kd": lambda *nets_x_y, tau, **_: kd_losses(*nets_x_y, tau=tau, alpha=0.5),
    "re": lambda model, teacher, x, y, **given: re_losses(model, x, y, **given),
    "rekd": lambda *nets_x_y, **given: rekd_losses(*nets_x_y, **given, **KD),
    "rekd, teacher reads": lambda *nets_x_y, **given: rekd_losses(
        *nets_x_y, **given, **KD, teacher_reads="teacher"),
    "rekd, known answers": lambda model, teacher, x, y, **given: rekd_losses(
        model, None, x, y, **given, **KD, teacher_reads="teacher",
        known=teacher_outputs(teacher, x))}


def network(kind, masking, method="re"):
    model = models.build(preset=f"{kind}:8:2:2", method=method, num_classes=3, masking=masking,
                         rate=0.25, **SHAPES[kind])
    for part in model.modules():  # model.to("cuda") would look for a real one
        for name, p in part.named_parameters(recurse=False):
            with MODE:
                setattr(part, name, torch.nn.Parameter(torch.empty(p.shape, device="cuda")))
    return model


@pytest.mark.parametrize("masking", ["zero", "drop"])
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("method", STEPS)
def test_steps_and_evaluation_stay_on_the_device_and_never_wait(method, kind, masking):
    model, teacher = network(kind, masking, method), network(kind, masking).requires_grad_(False)
    with MODE:
        x = (torch.empty(4, 3, 16, 16, device="cuda") if kind == "vit" else
             torch.ones(4, 12, device="cuda", dtype=torch.int32))
        y = torch.ones(4, device="cuda", dtype=torch.long)
        for options in {"balanced": True}, {"lambda_select": 0.1}:
            losses = STEPS[method](model, teacher.eval(), x, y, tau=1.0, rate=0.25, **options)
            assert losses["loss"].requires_grad
            assert {loss.device.type for loss in losses.values()} == {"cuda"}
        assert {t.device.type for t in model.eval()(x)} == {"cuda"}  # packed, where it drops


def test_images_are_cropped_and_resized_on_the_device():
    with MODE:
        pixels = torch.empty(5, 3, 32, 32, dtype=torch.uint8, device="cuda")
        views = torch.zeros(5, 3, dtype=torch.long, device="cuda")
        x = data.to_input(data.crop_and_flip(pixels, views), 64)
    assert (x.shape, x.dtype, x.device.type) == ((5, 3, 64, 64), torch.float32, "cuda")
