"""PyTorch's side of `benchmarks/training.py`: same models, losses and optimisers.

Imports nothing of `vaecausal_jax`, so any interpreter with PyTorch can run it. It serves requests,
one JSON object a line on standard input, one a line on standard output:

    {"family": "vae", "steps": 40}                      -> {"seconds": ..., "cpu_seconds": ...}
    {"family": "vae", "weights": "path of an .npz"}     -> {"loss": ..., "gradient_norm": ...}

    python benchmarks/torch_twins.py IMAGES.npy --threads 2 --device cpu
"""

import argparse
import json
import math
import sys
import time

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

BATCH, LATENTS, CODES, CODE_SIZE = 64, 10, 512, 64
WIDTHS = {64: ((32, 32, 64, 64), 256), 32: ((16, 32, 32), 128)}
VQ_WIDTHS = {64: (32, 32, 64), 32: (16, 32, 32)}


def upsampling(channels):
    """Transposed convolutions through the given channels, ReLU between."""
    layers = []
    for before, after in zip(channels[:-1], channels[1:], strict=True):
        layers += [nn.ConvTranspose2d(before, after, 4, 2, 1), nn.ReLU()]
    return layers[:-1]


def downsampling(channels):
    layers = []
    for before, after in zip(channels[:-1], channels[1:], strict=True):
        layers += [nn.Conv2d(before, after, 4, 2, 1), nn.ReLU()]
    return layers


class GaussianVAE(nn.Module):
    """The field's convolutional VAE."""

    def __init__(self, size):
        super().__init__()
        channels, dense = WIDTHS[size]
        flat = 16 * channels[-1]
        self.encoder = nn.Sequential(
            *downsampling((1, *channels)), nn.Flatten(), nn.Linear(flat, dense), nn.ReLU()
        )
        self.mean = nn.Linear(dense, LATENTS)
        self.logvar = nn.Linear(dense, LATENTS)
        self.decoder = nn.Sequential(
            nn.Linear(LATENTS, dense),
            nn.ReLU(),
            nn.Linear(dense, flat),
            nn.ReLU(),
            nn.Unflatten(1, (channels[-1], 4, 4)),
            *upsampling((*channels[::-1], 1)),
        )

    def forward(self, x, eps):
        """Maps images and noise to logits, codes, means and log-variances."""
        h = self.encoder(x)
        mean, logvar = self.mean(h), self.logvar(h)
        z = mean + torch.exp(0.5 * logvar) * eps
        return self.decoder(z), z, mean, logvar


def reconstruction(logits, x):
    return F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / x.shape[0]


def kl(mean, logvar):
    return 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum(1).mean()


def vae(z, mean, logvar, num_images):
    return kl(mean, logvar)


def beta_vae(z, mean, logvar, num_images):
    return 4.0 * kl(mean, logvar)


def beta_tc_vae(z, mean, logvar, num_images):
    standard = (z[:, None] - mean[None]) * torch.exp(-0.5 * logvar)[None]
    log_density = -0.5 * (standard**2 + logvar[None] + math.log(2 * math.pi))
    log_weight = math.log(z.shape[0] * num_images)
    joint = log_density.sum(2).logsumexp(1) - log_weight
    marginals = (log_density.logsumexp(1) - log_weight).sum(1)
    return kl(mean, logvar) + 5.0 * (joint - marginals).mean()


def dip_penalty(covariance, off_diagonal, diagonal):
    entries = torch.diagonal(covariance)
    rest = covariance - torch.diag(entries)
    return off_diagonal * (rest**2).sum() + diagonal * ((entries - 1) ** 2).sum()


def covariance(mean):
    centred = mean - mean.mean(0)
    return centred.T @ centred / mean.shape[0]


def dip_vae_i(z, mean, logvar, num_images):
    return kl(mean, logvar) + dip_penalty(covariance(mean), 10.0, 100.0)


def dip_vae_ii(z, mean, logvar, num_images):
    total = covariance(mean) + torch.diag(logvar.exp().mean(0))
    return kl(mean, logvar) + dip_penalty(total, 10.0, 10.0)


class Gaussian:
    """Trains a `GaussianVAE` on reconstruction plus a function of the latents."""

    def __init__(self, regulariser, size, device):
        self.regulariser = regulariser
        self.model = GaussianVAE(size).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4)

    def loss(self, x, eps, num_images):
        """Nats per image."""
        logits, *latents = self.model(x, eps)
        return reconstruction(logits, x) + self.regulariser(*latents, num_images)

    def step(self, x, num_images):
        """One update."""
        eps = torch.randn(len(x), LATENTS, device=x.device)
        self.optimizer.zero_grad()
        self.loss(x, eps, num_images).backward()
        self.optimizer.step()


class Factor(Gaussian):
    """FactorVAE with gamma 6.4: the codes' logits serve the VAE and the discriminator."""

    def __init__(self, size, device):
        super().__init__(vae, size, device)
        widths = (LATENTS, *(1000,) * 6)
        layers = []
        for before, after in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(before, after), nn.LeakyReLU(0.2)]
        self.discriminator = nn.Sequential(*layers, nn.Linear(1000, 2)).to(device)
        self.discriminator_optimizer = torch.optim.Adam(
            self.discriminator.parameters(), lr=1e-4, betas=(0.5, 0.9)
        )

    def loss(self, x, eps, num_images):
        """Nats per image."""
        logits, z, mean, logvar = self.model(x, eps)
        self.z, self.real = z.detach(), self.discriminator(z)
        tc = (self.real[:, 0] - self.real[:, 1]).mean()
        return reconstruction(logits, x) + kl(mean, logvar) + 6.4 * tc

    def step(self, x, num_images):
        """One update."""
        eps = torch.randn(len(x), LATENTS, device=x.device)
        self.optimizer.zero_grad()
        # `inputs`: the discriminator's weights need no gradient of this loss.
        loss = self.loss(x, eps, num_images)
        loss.backward(inputs=list(self.model.parameters()), retain_graph=True)
        permuted = [self.z[torch.randperm(len(x), device=x.device), k] for k in range(LATENTS)]
        other = self.discriminator(torch.stack(permuted, dim=1))
        zeros = torch.zeros(len(x), dtype=torch.long, device=x.device)
        loss = 0.5 * (F.cross_entropy(self.real, zeros) + F.cross_entropy(other, zeros + 1))
        self.discriminator_optimizer.zero_grad()
        loss.backward(inputs=list(self.discriminator.parameters()))
        self.optimizer.step()
        self.discriminator_optimizer.step()


class VectorQuantised(nn.Module):
    """VQ-VAE with a codebook that follows moving averages."""

    def __init__(self, size):
        super().__init__()
        channels = VQ_WIDTHS[size]
        self.encoder = nn.Sequential(
            *downsampling((1, *channels)), nn.Conv2d(channels[-1], CODE_SIZE, 1)
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(CODE_SIZE, channels[-1], 1), nn.ReLU(), *upsampling((*channels[::-1], 1))
        )
        self.register_buffer("codebook", torch.empty(CODES, CODE_SIZE).uniform_(-0.2, 0.2))
        self.register_buffer("counts", torch.ones(CODES))
        self.register_buffer("sums", self.codebook.clone())

    def forward(self, x):
        """Maps images to logits, code distance, encodings and codes."""
        pre = self.encoder(x).permute(0, 2, 3, 1)
        flat = pre.reshape(-1, CODE_SIZE)
        with torch.no_grad():
            distances = (self.codebook**2).sum(1) - 2.0 * flat @ self.codebook.T
            codes = distances.argmin(1)
            chosen = self.codebook[codes].view_as(pre)
        distance = ((pre - chosen) ** 2).sum(-1).mean()
        z = pre + (chosen - pre).detach()
        return self.decoder(z.permute(0, 3, 1, 2)), distance, flat.detach(), codes

    @torch.no_grad()
    def update(self, flat, codes):
        """Moves the codebook towards the encodings that chose it."""
        one_hot = F.one_hot(codes, CODES).float()
        self.counts.mul_(0.99).add_(one_hot.sum(0), alpha=0.01)
        self.sums.mul_(0.99).add_(one_hot.T @ flat, alpha=0.01)
        alive = self.counts[:, None] > 1e-5
        self.codebook.copy_(torch.where(alive, self.sums / self.counts[:, None], self.codebook))


class Quantised:
    """Trains a `VectorQuantised`."""

    def __init__(self, size, device):
        self.model = VectorQuantised(size).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4)

    def loss(self, x, eps, num_images):
        """Nats per image."""
        logits, distance, self.flat, self.codes = self.model(x)
        return reconstruction(logits, x) + 0.25 * distance

    def step(self, x, num_images):
        """One update."""
        self.optimizer.zero_grad()
        self.loss(x, None, num_images).backward()
        self.optimizer.step()
        self.model.update(self.flat, self.codes)


REGULARISERS = {
    "vae": vae,
    "beta_vae": beta_vae,
    "beta_tc_vae": beta_tc_vae,
    "dip_vae_i": dip_vae_i,
    "dip_vae_ii": dip_vae_ii,
}


LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def make_trainer(family, size, device):
    if family in REGULARISERS:
        return Gaussian(REGULARISERS[family], size, device)
    return {"factor_vae": Factor, "vq_vae": Quantised}[family](size, device)


def synchronize(images):
    if images.is_cuda:
        torch.cuda.synchronize()


def timed(trainer, images, steps):
    """Trains for some steps; seconds on the wall and of the processor."""
    synchronize(images)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        rows = torch.randint(0, len(images), (BATCH,), device=images.device)
        trainer.step(images[rows].float() / 255.0, len(images))
    synchronize(images)
    return {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


@torch.no_grad()
def load(module, weights, prefix):
    """Copies Flax's kernels and biases, numbered in order of use, into a module's layers."""
    layers = [m for m in module.modules() if isinstance(m, LAYERS)]
    for number, layer in enumerate(layers):
        kernel = torch.tensor(weights[f"{prefix}{number}/kernel"])
        if isinstance(layer, nn.Linear):
            kernel = kernel.T
        elif isinstance(layer, nn.ConvTranspose2d):
            kernel = kernel.flip(0, 1).permute(2, 3, 0, 1)
        else:  # A 1x1 convolution is a dense layer in Flax.
            kernel = kernel.view(*layer.kernel_size, *kernel.shape[-2:]).permute(3, 2, 0, 1)
        layer.weight.copy_(kernel)
        layer.bias.copy_(torch.tensor(weights[f"{prefix}{number}/bias"]))


def loss_at(trainer, weights, num_images, device):
    """Loss and norm of its gradient at given weights, images and noise."""
    load(trainer.model, weights, "model")
    if isinstance(trainer, Factor):
        load(trainer.discriminator, weights, "discriminator")
    if isinstance(trainer, Quantised):
        trainer.model.codebook.copy_(torch.tensor(weights["codebook"]))
    x, eps = (torch.tensor(weights[name], device=device) for name in ("images", "eps"))
    parameters = list(trainer.model.parameters())
    loss = trainer.loss(x.permute(0, 3, 1, 2), eps, num_images)
    gradient = torch.autograd.grad(loss, parameters)
    norm = torch.sqrt(sum((leaf**2).sum() for leaf in gradient))
    return {"loss": loss.item(), "gradient_norm": norm.item()}


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("images", help=".npy file, uint8 (images, height, width, 1)")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    images = torch.tensor(np.load(args.images), device=args.device).permute(0, 3, 1, 2)
    images = images.contiguous()
    size, trainers = images.shape[-1], {}
    print(json.dumps({"torch": torch.__version__, "cuda": torch.cuda.is_available()}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        family = request["family"]
        if family not in trainers:
            trainers[family] = make_trainer(family, size, args.device)
        trainer = trainers[family]
        if "weights" in request:
            answer = loss_at(trainer, np.load(request["weights"]), len(images), args.device)
        else:
            answer = timed(trainer, images, request["steps"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
