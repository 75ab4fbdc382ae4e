"""Networks of very different shapes, written with plain torch, small enough for quick tests.

Each returns [N, D] for a batch of RGB images of any size of at least 32x32 (the transformer: of
the size given).
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a skip; one ReLU module is called twice."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    """Four stages of basic blocks behind a strided stem."""

    def __init__(self, blocks: tuple[int, ...], width: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = width
        stages = []
        for stage, count in enumerate(blocks):
            outputs = width * 2**stage
            layers = [BasicBlock(channels, outputs, 1 if stage == 0 else 2)]
            layers += [BasicBlock(outputs, outputs, 1) for _ in range(count - 1)]
            stages.append(nn.Sequential(*layers))
            channels = outputs
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet18(width: int = 8, classes: int = 10) -> nn.Module:
    """ResNet-18 (width 64 is the published one)."""
    return ResNet((2, 2, 2, 2), width, classes).eval()


class SqueezeExcitation(nn.Module):
    """Each channel times a gate that the means of all channels open."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, max(channels // 4, 4), 1)
        self.relu = nn.ReLU()
        self.expand = nn.Conv2d(max(channels // 4, 4), channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.expand(self.relu(self.reduce(self.pool(x)))))


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow; a skip where shapes allow."""

    def __init__(
        self, inputs: int, hidden: int, outputs: int, kernel: int, stride: int, se: bool, hs: bool
    ) -> None:
        super().__init__()
        self.skip = stride == 1 and inputs == outputs
        activation = nn.Hardswish if hs else nn.ReLU
        layers: list[nn.Module] = []
        if hidden != inputs:
            layers += [nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden)]
            layers += [activation()]
        layers += [
            nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
        ]
        if se:
            layers += [SqueezeExcitation(hidden)]
        layers += [activation(), nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.skip else self.block(x)


def mobilenet_v3_like(width: int = 8, classes: int = 10) -> nn.Module:
    """Inverted residuals with hard swish and squeeze-and-excitation."""
    w = width
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, w, 3, 2, 1, bias=False), nn.BatchNorm2d(w), nn.Hardswish()),
        InvertedResidual(w, w, w, 3, 2, True, False),
        InvertedResidual(w, 4 * w, 2 * w, 3, 2, False, False),
        InvertedResidual(2 * w, 6 * w, 2 * w, 3, 1, False, False),
        InvertedResidual(2 * w, 6 * w, 3 * w, 5, 2, True, True),
        InvertedResidual(3 * w, 8 * w, 3 * w, 5, 1, True, True),
        nn.Conv2d(3 * w, 12 * w, 1),
        nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12 * w, 16 * w),
        nn.Hardswish(),
        nn.Dropout(0.2),
        nn.Linear(16 * w, classes),
    ).eval()


class EncoderBlock(nn.Module):
    """Attention, then two linear layers, each behind a norm and beside a skip."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, dropout=0.1, batch_first=True)
        self.drop = nn.Dropout(0.1)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width), nn.Dropout(0.1)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.drop(self.attn(y, y, y, need_weights=False)[0])
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Patches and a class token through encoder blocks; the token is what is classified."""

    def __init__(
        self, size: int, patch: int, width: int, heads: int, depth: int, classes: int
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.position = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, width) * 0.02)
        self.blocks = nn.Sequential(*[EncoderBlock(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


def small_vit(
    size: int = 32,
    patch: int = 8,
    width: int = 16,
    heads: int = 2,
    depth: int = 2,
    classes: int = 10,
) -> nn.Module:
    """A vision transformer with class token and position embedding."""
    return VisionTransformer(size, patch, width, heads, depth, classes).eval()


class Tiny(nn.Module):
    """Two branches joined by concatenation, grouped convolution, max pooling."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding="valid")
        self.left = nn.Conv2d(width, width, 1)
        self.right = nn.Conv2d(width, width, 3, padding="same", dilation=2, groups=2)
        self.pool = nn.MaxPool2d(2)
        self.average = nn.AvgPool2d(3, 2, 1)
        self.act = nn.LeakyReLU(0.1)
        self.head = nn.Linear(2 * width, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        x = torch.cat([self.left(x), self.right(x)], dim=1)
        x = self.average(self.pool(self.act(x)))
        return self.head(x.mean(dim=(2, 3)))


def tiny(width: int = 4, classes: int = 10) -> nn.Module:
    """A network of a few layers with a fork."""
    return Tiny(width, classes).eval()


class Classic(nn.Module):
    """As many examples have it: logarithms of probabilities, not logits."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3)
        self.second = nn.Conv2d(width, 2 * width, 3)
        self.dropout = nn.Dropout(0.5)
        self.hidden = nn.Linear(2 * width * 16, 16)
        self.head = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.max_pool2d(F.relu(self.first(x)), 2)))
        x = torch.flatten(F.adaptive_avg_pool2d(x, 4), 1)
        x = self.dropout(F.relu(self.hidden(x)))
        return F.log_softmax(self.head(x), dim=1)


def classic(width: int = 4, classes: int = 10) -> nn.Module:
    """Convolutions, pooling, dropout, and `log_softmax` at the end."""
    return Classic(width, classes).eval()


class UNet(nn.Module):
    """Down and up again, by a transposed convolution and by bilinear resizing, joined on the way.

    What a segmentation network answers for each pixel is averaged for the class of an image.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.deep = nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(2 * width, 2 * width, 4, stride=2, padding=1)
        self.each = nn.ConvTranspose2d(4 * width, 4 * width, 2, stride=2, groups=4 * width)
        self.resize = nn.Upsample(scale_factor=2, mode="bilinear")
        self.leave = nn.Conv2d(5 * width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        entered = F.relu(self.enter(x))
        down = F.relu(self.down(entered))
        joined = torch.cat([down, F.relu(self.up(F.relu(self.deep(down))))], 1)
        upper = torch.cat([entered, F.relu(self.each(joined))], 1)
        return self.leave(self.resize(upper)).mean((2, 3))


def small_unet(width: int = 3, classes: int = 10) -> nn.Module:
    """A segmentation network of a few layers."""
    return UNet(width, classes).eval()


ZOO: Mapping[str, Callable[[], nn.Module]] = {
    "resnet18": resnet18,
    "mobilenet_v3_like": mobilenet_v3_like,
    "small_vit": small_vit,
    "tiny": tiny,
    "classic": classic,
}
"""Every network at its small size, for 3x32x32 images."""

WITH_VIEWS: Mapping[str, Callable[[], nn.Module]] = {"small_unet": small_unet}
"""Networks whose weights are read through views: a transposed convolution's is `<name>.T`."""
