"""Networks whose answer is as large as their input: autoencoders, segmenters, generators."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, RMSprop

from tests.clinic.case import Program, sick
from tests.clinic.data import batches, digits, ring
from tests.clinic.loops import mean_loss, supervised
from tests.clinic.models import VAE, mlp


def _shapes(samples: int = 300) -> tuple[Tensor, Tensor]:
    """Noisy images [n, 1, 12, 12] of a bright rectangle, and the mask of zeros and ones."""
    rows, columns = torch.arange(12).view(1, 12, 1), torch.arange(12).view(1, 1, 12)
    top, left = torch.randint(7, (2, samples, 1, 1))
    height, width = torch.randint(3, 6, (2, samples, 1, 1))
    mask = (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)
    masks = mask.float().unsqueeze(1)
    images = 1.5 * masks + 0.8 * torch.randn(samples, 1, 12, 12)
    return (images - images.mean()) / images.std(), masks


class _UNet(nn.Module):
    """One step down and one up, with the shortcut across."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.down = self._block(1, 12, norm)
        self.bottom = self._block(12, 24, norm)
        self.up = nn.ConvTranspose2d(24, 12, 2, stride=2)
        self.merge = self._block(24, 12, norm)
        self.out = nn.Conv2d(12, 1, 1)

    @staticmethod
    def _block(before: int, after: int, norm: bool) -> nn.Sequential:
        layers: list[nn.Module] = [nn.Conv2d(before, after, 3, padding=1, bias=not norm)]
        return nn.Sequential(*layers, *([nn.BatchNorm2d(after)] if norm else []), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        high = self.down(x)
        low = self.bottom(F.max_pool2d(high, 2))
        out: Tensor = self.out(self.merge(torch.cat((high, self.up(low)), 1)))
        return out


def _missed(model: nn.Module, images: Tensor, masks: Tensor, cut: float = 0.0) -> float:
    """One minus the overlap of what is answered above ``cut`` with the masks, as a share of both together."""
    model.eval()
    with torch.no_grad():
        answer, true = model(images) > cut, masks > 0.5
        return 1 - float((answer & true).sum() / (answer | true).sum().clamp_min(1))


@sick("loss-mismatch", "unnormalized-target", "diverging-loss", steps=120, by=60, bound=0.5)
def masks_of_zero_and_255(fault: bool) -> Program:
    """Masks as they are in the files, not divided by 255, and a loss with logits that takes any number."""
    images, masks = _shapes()
    model = _UNet()
    optimizer = Adam(model.parameters(), lr=3e-3)
    criterion = nn.BCEWithLogitsLoss()
    loader = batches(images, masks * 255 if fault else masks, 16)

    def step(i: int) -> None:
        model.train()
        scenes, target = next(loader)
        loss = criterion(model(scenes), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, lambda: _missed(model, images, masks))


@sick("redundant-softmax", steps=60, by=40, bound=0.075)
def unet_that_ends_in_a_sigmoid(fault: bool) -> Program:
    """The network from one repository, the loss from another: two sigmoids, and no mask below one half."""
    images, masks = _shapes()
    unet = _UNet()
    model = nn.Sequential(unet, nn.Sigmoid()) if fault else nn.Sequential(unet)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    loader = batches(images, masks, 16)

    def step(i: int) -> None:
        model.train()
        scenes, target = next(loader)
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(model(scenes), target).backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(unet, images, masks, F.binary_cross_entropy_with_logits))


@sick("wrong-output-activation", steps=250, by=120, bound=0.35)
def relu_after_the_last_layer_of_a_decoder(fault: bool) -> Program:
    """Every layer got its ReLU, and standardised pixels are negative for the most part."""
    task = digits()
    model = nn.Sequential(
        nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 64)
    )
    if fault:
        model.append(nn.ReLU())
    optimizer = Adam(model.parameters(), lr=3e-3)
    task = task._replace(y=task.x, y_val=task.x_val)
    return supervised(model, optimizer, task, nn.MSELoss(), mean_loss(model, task.x, task.x, F.mse_loss))


@sick("representation-collapse", "input-not-used", steps=250, by=150, bound=0.36)
def divergence_summed_and_error_averaged(fault: bool) -> Program:
    """The divergence is a sum over batch and code, the squared error a mean over pixels: the code says nothing."""
    task = digits()
    model = VAE(64, 48, 8)
    optimizer = Adam(model.parameters(), lr=3e-3)
    loader = batches(task.x, task.y, 32)

    def step(i: int) -> None:
        model.train()
        images, _ = next(loader)
        answer, mean, log_variance = model(images)
        divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp())
        if fault:
            loss = F.mse_loss(answer, images) + divergence.sum()
        else:
            loss = F.mse_loss(answer, images) + divergence.sum(1).mean() / 64
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        model.eval()
        with torch.no_grad():
            return float(F.mse_loss(model(task.x)[0], task.x))

    return Program(model, optimizer, step, loss)


@sick("small-batch-batchnorm", steps=400, by=240, bound=0.35)
def two_codes_a_step_through_batchnorm(fault: bool) -> Program:
    """The memory of the card allows for two samples a step, and batch norms stay; the twin has layer norms."""
    task = digits()
    norm = nn.BatchNorm1d if fault else nn.LayerNorm
    model = nn.Sequential(
        nn.Linear(64, 48), norm(48), nn.ReLU(), nn.Linear(48, 16), norm(16), nn.ReLU(), nn.Linear(16, 64)
    )
    optimizer = RMSprop(model.parameters(), lr=1e-3)
    loader = batches(task.x, task.x, 2)

    def step(i: int) -> None:
        model.train()
        images, target = next(loader)
        optimizer.zero_grad()
        F.mse_loss(model(images), target).backward()
        optimizer.step()
        if i % 20 == 0:
            model.eval()
            with torch.no_grad():
                F.mse_loss(model(task.x_val), task.x_val)

    return Program(model, optimizer, step, mean_loss(model, task.x, task.x, F.mse_loss))


@sick("no-gradient", steps=200, by=60, layers=("encoder.0", "encoder.2"), bound=0.26)
def code_detached_before_the_decoder(fault: bool) -> Program:
    """A detach() from a look at the codes was left in forward."""
    task = digits()

    class Autoencoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8))
            self.decoder = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 64))

        def forward(self, x: Tensor) -> Tensor:
            code = self.encoder(x)
            out: Tensor = self.decoder(code.detach() if fault else code)
            return out

    model = Autoencoder()
    optimizer = Adam(model.parameters(), lr=5e-3)
    loader = batches(task.x, task.x, 32)

    def step(i: int) -> None:
        images, target = next(loader)
        loss = F.mse_loss(model(images), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, task.x, task.x, F.mse_loss))


@sick(
    "representation-collapse",
    "learning-rate-too-large",
    steps=400,
    by=300,
    bound=0.45,
    miss="told where some thirty samples were afforded by then; on a loaded machine they are fewer",
)
def generator_at_a_rate_of_three_hundredths(fault: bool) -> Program:
    """Mode collapse: the generator runs ahead, and all of its points lie in one place that moves about."""
    points = ring()
    generator = mlp(8, 48, 48, 2)
    discriminator = mlp(2, 48, 48, 1, activation=lambda: nn.LeakyReLU(0.2))
    model = nn.ModuleDict({"generator": generator, "discriminator": discriminator})
    for_generator = Adam(generator.parameters(), lr=3e-2 if fault else 1e-3, betas=(0.5, 0.999))
    for_discriminator = Adam(discriminator.parameters(), lr=2e-3, betas=(0.5, 0.999))
    criterion = nn.BCEWithLogitsLoss()
    ones, zeros = torch.ones(64, 1), torch.zeros(64, 1)

    def step(i: int) -> None:
        real = points[torch.randint(len(points), (64,))]
        fake = generator(torch.randn(64, 8))
        for_discriminator.zero_grad()
        loss = criterion(discriminator(real), ones) + criterion(discriminator(fake.detach()), zeros)
        loss.backward()
        for_discriminator.step()
        for_generator.zero_grad()
        criterion(discriminator(fake), ones).backward()
        for_generator.step()

    def loss() -> float:
        """Mean distance from a true point to the nearest one made."""
        with torch.no_grad():
            return float(torch.cdist(points[:500], generator(torch.randn(500, 8))).amin(1).mean())

    return Program(model, for_generator, step, loss)
