"""What draws random numbers in torch, from a stream that everything shares, and in JAX, from `rngs`."""

import ast

from jaxrnn.port.rules import Rule, UntranslatedError, bind, fill, rule, whole

_KEY = "rngs.params()"


def _of_size(name: str) -> Rule:
    def rewrite(call: ast.Call, receiver: ast.expr | None = None) -> ast.expr:
        size = bind(call, "*size")["size"]
        # `jax.random` wants a tuple even of one axis.
        single = isinstance(size, ast.Constant | ast.BinOp | ast.Name | ast.Attribute)
        shape = ast.Tuple([size], ast.Load()) if single else size
        return fill(f"jax.random.{name}({_KEY}, {{shape}})", {"shape": shape})

    return rewrite


def _randint(call: ast.Call, receiver: ast.expr | None = None) -> ast.expr:
    """Rewrite torch's randint, which may begin with the first number that is too high."""
    given = bind(call, "high size" if len(call.args) == 2 else "low=0 high size")
    return fill(f"jax.random.randint({_KEY}, {{size}}, {{low}}, {{high}})", {"low": ast.Constant(0)} | given)


def _multinomial(call: ast.Call, receiver: ast.expr | None = None) -> ast.expr:
    given = bind(call, "input num_samples replacement?")
    if whole(given["num_samples"]) != 1:
        raise UntranslatedError(
            "several at once: write it by jax.random.categorical, which draws with replacement"
        )
    return fill(f"jax.random.categorical({_KEY}, jnp.log({{input}}))[..., None]", given)


DRAWING: dict[str, Rule] = {
    "torch.randn": _of_size("normal"),
    "torch.rand": _of_size("uniform"),
    "torch.randn_like": rule(f"input -> jax.random.normal({_KEY}, {{input}}.shape)"),
    "torch.rand_like": rule(f"input -> jax.random.uniform({_KEY}, {{input}}.shape)"),
    "torch.randint": _randint,
    "torch.randperm": rule(f"n -> jax.random.permutation({_KEY}, {{n}})"),
    "torch.multinomial": _multinomial,
    "torch.bernoulli": rule(f"input -> jax.random.bernoulli({_KEY}, {{input}}).astype({{input}}.dtype)"),
}
