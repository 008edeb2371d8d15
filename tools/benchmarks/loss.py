"""The loss of Un-Mix MoCo against a large queue: the literal form of the released code, and ours.

One step's losses and the gradients of the features, B x D queries against K negatives, and the new keys into the queue:

* literal: for each term, a copy of the queue, its products as a table (B, K), the positives before it (``cat``), and
  cross-entropy. Three terms (query, mixture, mixture in reverse order), in the symmetric form six.
* ours: :class:`InfoNCEHead` and :class:`UnMix`. One pass through the queue for each encoding, see ``bank_lse``.

First, the losses and the gradients are compared in float64, to 1e-12. Extra memory is the peak of the tensors that are
alive during the step and were not before it.

Further rows are other losses, each against its literal form: uniformity (t = 3), NT-Xent of a batch of 512, InstDisc's
softmax (K = 4096 rows of a bank of 50,000).
"""

import argparse
import math
from collections.abc import Callable

import torch
from measure import Goal, argument_parser, extra_megabytes, interleave, print_goals
from torch import Tensor
from torch.nn import functional as F

from unmix.mixing import UnMix
from unmix.models import AlignUniformHead, BaseHead, InfoNCEHead, NCEHead, NTXentHead

LAM, TEMPERATURE = 0.3, 0.2
Step = Callable[[], list[Tensor]]


def unit(rows: int, args: argparse.Namespace, dtype: torch.dtype) -> Tensor:
    """Random rows of unit length."""
    return F.normalize(torch.randn(rows, args.dim, dtype=torch.float64), dim=1).to(args.device, dtype)


def moco(args: argparse.Namespace, size: int, dtype: torch.dtype, symmetric: bool) -> dict[str, Step]:
    """Both forms of a step's losses, on the same features and queue; each returns losses and gradients."""
    torch.manual_seed(args.seed)
    head = InfoNCEHead(args.dim, size, TEMPERATURE).to(args.device, dtype)
    queue = head.queue.features.T.contiguous().clone()
    directions = 2 if symmetric else 1
    keys = [unit(args.batch, args, dtype) for _ in range(directions)]
    queries = [unit(args.batch, args, dtype).requires_grad_() for _ in range(directions + 1)]
    mixture, plain = queries[-1], queries[:-1]
    unmix = UnMix()

    def cross_entropy(query: Tensor, key: Tensor, negatives: Tensor) -> Tensor:
        positive = torch.einsum('nc,nc->n', query, key)[:, None]
        logits = torch.cat([positive, torch.einsum('nc,ck->nk', query, negatives.clone().detach())], 1) / TEMPERATURE
        return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.long, device=query.device))

    def literal() -> list[Tensor]:
        losses = [
            cross_entropy(query, key, queue)
            + LAM * cross_entropy(mixture, key, queue)
            + (1 - LAM) * cross_entropy(mixture.flip(0), key, queue)
            for query, key in zip(plain, keys, strict=True)
        ]
        loss = torch.stack(losses).sum()
        gradients = torch.autograd.grad(loss, queries)
        queue[:, : args.batch * directions] = torch.cat(keys).T
        return [loss.detach(), *gradients]

    def ours() -> list[Tensor]:
        losses = [head(query, key, head.shared(query)) for query, key in zip(plain, keys, strict=True)]
        shared = head.shared(mixture)
        mixed = unmix(LAM, [(head(mixture, key, shared), head(mixture.flip(0), key, shared.flip(0))) for key in keys])
        loss = torch.stack(losses).sum() + mixed
        head.update({}, dict(enumerate(keys)))
        return [loss.detach(), *torch.autograd.grad(loss, queries)]

    return {'literal': literal, 'ours': ours}


def others(args: argparse.Namespace, dtype: torch.dtype) -> dict[str, dict[str, Step]]:
    """Literal form and ours of the other losses."""
    torch.manual_seed(args.seed)
    query = unit(args.batch, args, dtype).requires_grad_()
    key, view = unit(args.batch, args, dtype), unit(512, args, dtype).requires_grad_()
    other = unit(512, args, dtype)
    spread = AlignUniformHead(args.dim, args.queue, align_weight=0.0, intra_batch=False).to(args.device, dtype)
    pairs = NTXentHead(TEMPERATURE)
    bank = NCEHead(50_000, args.dim, 4096, TEMPERATURE).to(args.device, dtype)
    rows = bank.address(torch.arange(args.batch, device=args.device))

    def uniformity() -> Tensor:
        squared: Tensor = 2 - 2 * query @ spread.queue.features.clone().T  # of unit rows, as released
        return (-3 * squared).flatten().logsumexp(0) - math.log(squared.numel())

    def nt_xent() -> Tensor:
        both = torch.cat([view, other])
        itself = torch.eye(len(both), dtype=torch.bool, device=both.device)
        logits = (both @ both.T / TEMPERATURE).masked_fill(itself, -torch.inf)
        return F.cross_entropy(logits, torch.arange(len(both), device=both.device).roll(512))

    def instdisc() -> Tensor:
        stored = bank.banks[0].features[rows]  # (N, 1 + K, D)
        scores = torch.bmm(stored, query[:, :, None])[:, :, 0] / TEMPERATURE
        return F.cross_entropy(scores, torch.zeros(len(query), dtype=torch.long, device=query.device))

    def step(loss: Callable[[], Tensor], x: Tensor) -> Step:
        def run() -> list[Tensor]:
            value = loss()
            return [value.detach(), *torch.autograd.grad(value, x)]

        return run

    def pair(literal: Callable[[], Tensor], head: BaseHead, x: Tensor, target: Tensor) -> dict[str, Step]:
        return {'literal': step(literal, x), 'ours': step(lambda: head(x, target), x)}

    return {
        f'uniformity, K={args.queue}': pair(uniformity, spread, query, key),
        'NT-Xent, batch 512': pair(nt_xent, pairs, view, other),
        'InstDisc softmax, K=4096': pair(instdisc, bank, query, rows),
    }


def check(name: str, forms: dict[str, Step]) -> None:
    """Compare losses and gradients.

    Raises:
        AssertionError: If they differ.
    """
    for ours, theirs in zip(forms['ours'](), forms['literal'](), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12, msg=lambda text: f'{name}: {text}')


def main() -> None:
    """Check, measure and print."""
    parser = argument_parser(__doc__, rounds=7)
    parser.add_argument('--batch', type=int, default=256, help='queries B (default 256)')
    parser.add_argument('--dim', type=int, default=128, help='feature dimension D (default 128)')
    parser.add_argument('--queue', type=int, default=65536, help='negatives K (default 65536)')
    args = parser.parse_args()
    torch.set_num_threads(args.threads[0])

    def cases(dtype: torch.dtype, args: argparse.Namespace) -> dict[str, dict[str, Step]]:
        sizes = {f'asymmetric, K={args.queue}': (args.queue, False), f'symmetric, K={args.queue}': (args.queue, True)}
        sizes['asymmetric, K=4096'] = 4096, False
        steps = {name: moco(args, size, dtype, symmetric) for name, (size, symmetric) in sizes.items()}
        return steps | others(args, dtype)

    for name, forms in cases(torch.float64, argparse.Namespace(**vars(args) | dict(device='cpu'))).items():
        check(name, forms)
    print('float64: losses and gradients are those of the literal forms, to 1e-12')
    goals: list[Goal] = []
    seconds, memory = {}, {}
    for name, forms in cases(torch.float32, args).items():
        ratios = interleave(forms, args.rounds, args.threads, seed=args.seed, device=args.device)
        ratios.print('literal', name)
        seconds[name], memory[name] = ratios.seconds, extra_megabytes(forms, args.device)
        if not goals:  # the first case alone has them
            less = memory[name]['ours'] / memory[name]['literal']
            goals.append(Goal('loss_k65536', ratios.ratio('literal', 'ours').median, 5))
            goals.append(Goal('loss_k65536_memory', less, 1 / 100, at_most=True))
    print_goals(goals, args.json, seconds=seconds, memory=memory)


if __name__ == '__main__':
    main()
