"""U-Nets as others write them, with random weights: what is converted in tests."""

import copy
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation


def double_conv(i: int, o: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(i, o, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(o, o, 3, padding=1), nn.ReLU(inplace=True)
    )


class CardLayout(nn.Module):
    """enc1..enc4, bottleneck, upconv4, dec4 ... upconv1, dec1, final; no normalisation; skip first."""

    def __init__(self, base: int = 4):
        super().__init__()
        widths = [base * 2**level for level in range(5)]
        for level in range(1, 5):
            setattr(self, f"enc{level}", double_conv(3 if level == 1 else widths[level - 2], widths[level - 1]))
        self.bottleneck = double_conv(widths[3], widths[4])
        for level in range(4, 0, -1):
            setattr(self, f"upconv{level}", nn.ConvTranspose2d(widths[level], widths[level - 1], 2, stride=2))
            setattr(self, f"dec{level}", double_conv(widths[level], widths[level - 1]))
        self.final = nn.Conv2d(base, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        e1 = self.enc1(x)
        e2 = self.enc2(nn.functional.max_pool2d(e1, 2))
        e3 = self.enc3(nn.functional.max_pool2d(e2, 2))
        e4 = self.enc4(nn.functional.max_pool2d(e3, 2))
        d5 = self.bottleneck(nn.functional.max_pool2d(e4, 2))
        d4 = self.dec4(torch.cat([e4, self.upconv4(d5)], dim=1))
        d3 = self.dec3(torch.cat([e3, self.upconv3(d4)], dim=1))
        d2 = self.dec2(torch.cat([e2, self.upconv2(d3)], dim=1))
        d1 = self.dec1(torch.cat([e1, self.upconv1(d2)], dim=1))
        return self.final(d1)


class NormedBlock(nn.Module):
    def __init__(self, i: int, o: int):
        super().__init__()
        self.double_conv = nn.Sequential(
            nn.Conv2d(i, o, 3, padding=1),
            nn.BatchNorm2d(o),
            nn.ReLU(),
            nn.Conv2d(o, o, 3, padding=1),
            nn.BatchNorm2d(o),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.double_conv(x)


class Down(nn.Module):
    def __init__(self, i: int, o: int):
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), NormedBlock(i, o))

    def forward(self, x: Tensor) -> Tensor:
        return self.maxpool_conv(x)


class Up(nn.Module):
    def __init__(self, i: int, o: int):
        super().__init__()
        self.up = nn.ConvTranspose2d(i, o, 2, stride=2)
        self.conv = NormedBlock(i, o)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.conv(torch.cat([skip, self.up(x)], dim=1))


class OutConv(nn.Module):
    def __init__(self, i: int):
        super().__init__()
        self.conv = nn.Conv2d(i, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class NormedLayout(nn.Module):
    """inc, down1..down3, up1..up3, outc; batch norm behind convolutions with biases; skip first.

    The bottleneck is called a further down, and up1 is the deepest: numbers do not name levels.
    """

    def __init__(self, base: int = 4, channels: int = 1):
        super().__init__()
        self.inc = NormedBlock(channels, base)
        self.down1, self.down2, self.down3 = Down(base, 2 * base), Down(2 * base, 4 * base), Down(4 * base, 8 * base)
        self.up1, self.up2, self.up3 = Up(8 * base, 4 * base), Up(4 * base, 2 * base), Up(2 * base, base)
        self.outc = OutConv(base)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.inc(x)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        return self.outc(self.up3(self.up2(self.up1(self.down3(x3), x3), x2), x1))


class NamedBlock(nn.Module):
    """Registered second before first, so that not even the order within a block helps."""

    def __init__(self, i: int, o: int):
        super().__init__()
        self.bn2, self.bn1 = nn.BatchNorm2d(o), nn.BatchNorm2d(o)
        self.conv2, self.conv1 = nn.Conv2d(o, o, 3, padding=1, bias=False), nn.Conv2d(i, o, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()


class ListLayout(nn.Module):
    """Lists of ups, decoders (shallowest first) and encoders, in this order; upsampled first; 1x1 upsampling."""

    def __init__(self, base: int = 4):
        super().__init__()
        widths = [base * 2**level for level in range(4)]
        self.head = nn.Conv2d(base, 1, 1)
        self.ups = nn.ModuleList(nn.Conv2d(2 * width, width, 1) for width in widths[:-1])
        self.decoder = nn.ModuleList(NamedBlock(2 * width, width) for width in widths[:-1])
        self.bridge = NamedBlock(widths[2], widths[3])
        self.encoder = nn.ModuleList(NamedBlock(i, o) for i, o in zip([3, *widths[:2]], widths[:3], strict=True))

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in self.encoder:
            skips.append(block(x))
            x = nn.functional.max_pool2d(skips[-1], 2)
        x = self.bridge(x)
        for level in (2, 1, 0):
            x = self.ups[level](nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear"))
            x = self.decoder[level](torch.cat([x, skips[level]], dim=1))
        return self.head(x)


class FlatLayout(nn.Module):
    """conv1..conv10 and norm1..norm10 through the whole network, depth 2: numbers alone name anything."""

    def __init__(self, norm: str, base: int = 4):
        super().__init__()
        widths = [(3, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16), (16, 8), (8, 8), (8, 4), (4, 4)]
        for index, (i, o) in enumerate(widths, start=1):
            setattr(self, f"conv{index}", nn.Conv2d(i, o, 3, padding=1, bias=norm != "group"))
            kinds = {
                "group": lambda o: nn.GroupNorm(2, o),
                "instance": lambda o: nn.InstanceNorm2d(o, affine=True),
                "bare instance": nn.InstanceNorm2d,
            }
            setattr(self, f"norm{index}", kinds[norm](o))
        self.up1, self.up2 = nn.ConvTranspose2d(16, 8, 2, stride=2), nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.logits = nn.Conv2d(base, 1, 1, bias=False)

    def block(self, x: Tensor, first: int) -> Tensor:
        for index in (first, first + 1):
            x = getattr(self, f"norm{index}")(getattr(self, f"conv{index}")(x)).relu()
        return x

    def forward(self, x: Tensor) -> Tensor:
        s1 = self.block(x, 1)
        s2 = self.block(nn.functional.max_pool2d(s1, 2), 3)
        x = self.block(nn.functional.max_pool2d(s2, 2), 5)
        x = self.block(torch.cat([s2, self.up1(x)], dim=1), 7)
        return self.logits(self.block(torch.cat([s1, self.up2(x)], dim=1), 9))


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Parameters and statistics drawn so that each entry matters and activations keep their size."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim > 1:
            tensor.copy_(noise * (2 / tensor[0].numel()) ** 0.5)
        elif name.endswith(("running_var", "weight")):
            tensor.copy_(noise.abs() + 0.5)
        else:
            tensor.copy_(noise * 0.3)
    return module.eval()


def save(state_dict: dict[str, Tensor], path: Path) -> Path:
    save_file(state_dict, path) if path.suffix == ".safetensors" else torch.save(state_dict, path)
    return path


@torch.no_grad()
def assert_same_outputs(network: nn.Module, model: UNetForSemanticSegmentation, channels: int = 3) -> None:
    # In float64: in float32 one logit in thousands differs by more, depending on the CPU's order of summation. The
    # tolerance is for biases that are folded into running means, which are float32.
    images = torch.rand(2, channels, 32, 48, generator=torch.Generator().manual_seed(1)).double()
    expected = copy.deepcopy(network).double()(images)
    assert expected.std() > 1e-3
    torch.testing.assert_close(copy.deepcopy(model).double()(images).logits, expected, rtol=1e-5, atol=1e-5)
