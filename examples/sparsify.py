"""Train a few channels of a network in an ordinary PyTorch loop: any loss, any optimizer."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F  # noqa: N812

import costsim

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
labels = torch.tensor(digits.target)

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(),
    nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 10),
).eval()  # fmt: skip

# A plan by hand; `costsim plan --out plan.json` chooses one, and the path would do here.
plan = costsim.UpdatePlan(
    (
        costsim.ChannelSubset("2", "output", tuple(range(0, 64, 4))),
        costsim.ChannelSubset("6", "output", tuple(range(10))),
    ),
    biases=frozenset({"6"}),
)
net = costsim.sparsify(model, plan, images[:32])
optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)

for _epoch in range(3):
    for batch in torch.randperm(1500).split(32):  # the last batch is smaller
        optimizer.zero_grad()
        F.cross_entropy(net(images[batch]), labels[batch]).backward()
        optimizer.step()

accuracy = (net.eval()(images[1500:]).argmax(1) == labels[1500:]).float().mean()
print(f"accuracy {accuracy:.1%}; {sum(b.bytes for b in net.program().kept()):,} bytes kept a step")
