"""Attention of a decoder to what its encoder has read: one head, and keys that are projected once."""

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """What the classes below share: weights of S keys for a query, and the mean of their values::

    alpha = softmax_s(score(q, k_s)),    context = sum_s alpha_s v_s
    """

    def project_keys(self, keys: Tensor) -> Tensor:
        """Return what of the scores depends on the keys [B, S, F] alone."""
        return keys

    def score(self, query: Tensor, projected: Tensor) -> Tensor:
        """Return the score of each key for each query: [B, T, S]."""
        return query @ projected.transpose(1, 2)

    def forward(
        self, query: Tensor, keys: Tensor, values: Tensor, key_padding_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return contexts [B, T, V] and weights [B, T, S]; for queries [B, E] without T.

        `key_padding_mask` [B, S] is True where a key must not be looked at. Where every key of a row is hidden,
        its weights and its context are zero.
        """
        return self.attend(query, self.project_keys(keys), values, key_padding_mask)

    def attend(
        self, query: Tensor, projected: Tensor, values: Tensor, key_padding_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return what a call returns, of keys that `project_keys` has seen."""
        scores = self.score(query[:, None] if query.dim() == 2 else query, projected)
        if key_padding_mask is not None:
            none_left = key_padding_mask.all(-1)[:, None, None]
            hidden = key_padding_mask[:, None] & ~none_left  # or softmax, and its gradient, would be NaN
            weights = torch.softmax(scores.masked_fill(hidden, -torch.inf), -1).masked_fill(none_left, 0.0)
        else:
            weights = torch.softmax(scores, -1)
        contexts = weights @ values
        return (contexts[:, 0], weights[:, 0]) if query.dim() == 2 else (contexts, weights)


class AdditiveAttention(Attention):
    """Scores by a network with one hidden layer (Bahdanau et al., 2015, https://arxiv.org/abs/1409.0473)::

    score(q, k) = v^T tanh(W_q q + W_k k)
    """

    def __init__(self, query_size: int, key_size: int, hidden_size: int | None = None) -> None:
        super().__init__()
        hidden_size = query_size if hidden_size is None else hidden_size
        self.query_proj = nn.Linear(query_size, hidden_size, bias=False)
        self.key_proj = nn.Linear(key_size, hidden_size, bias=False)
        self.score_proj = nn.Linear(hidden_size, 1, bias=False)

    def project_keys(self, keys: Tensor) -> Tensor:
        """Return ``W_k k``."""
        return self.key_proj(keys)

    def score(self, query: Tensor, projected: Tensor) -> Tensor:
        """Return ``v^T tanh(W_q q + W_k k)``."""
        return self.score_proj(torch.tanh(self.query_proj(query)[:, :, None] + projected[:, None]))[..., 0]


class DotAttention(Attention):
    """Scores by dot products, not scaled (Luong et al., 2015, "dot", https://arxiv.org/abs/1508.04025)::

    score(q, k) = q^T k
    """

    def __init__(self, query_size: int, key_size: int) -> None:
        super().__init__()
        if query_size != key_size:
            raise ValueError(f"a dot product needs equally many features, got {query_size} and {key_size}.")


class BilinearAttention(Attention):
    """Scores by a bilinear form (Luong et al., 2015, "general", https://arxiv.org/abs/1508.04025)::

    score(q, k) = q^T W k
    """

    def __init__(self, query_size: int, key_size: int) -> None:
        super().__init__()
        self.key_proj = nn.Linear(key_size, query_size, bias=False)

    def project_keys(self, keys: Tensor) -> Tensor:
        """Return ``W k``."""
        return self.key_proj(keys)
