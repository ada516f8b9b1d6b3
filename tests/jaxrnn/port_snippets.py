"""One line of torch for each thing that `jaxrnn port` knows of a tensor; x is [3, 4] and positive."""

TENSORS = """
torch.exp(x), torch.log(x), torch.log1p(x), torch.log2(x), torch.expm1(x), torch.sqrt(x), torch.rsqrt(x)
torch.sin(x), torch.cos(x), torch.tan(x), torch.tanh(x), torch.sinh(x), torch.cosh(x), torch.abs(x - 1)
torch.sign(x - 1), torch.floor(x), torch.ceil(x), torch.round(x), torch.square(x), torch.neg(x)
torch.isnan(x), torch.isinf(x), torch.isfinite(x), torch.sigmoid(x), torch.relu(x - 1), torch.t(x)
torch.numel(x)
x.exp(), x.log(), x.log1p(), x.log2(), x.expm1(), x.sqrt(), x.rsqrt(), x.sin(), x.cos(), x.tan(), x.tanh()
x.sinh()
x.cosh(), (x - 1).abs(), (x - 1).sign(), x.floor(), x.ceil(), x.round(), x.square(), x.neg(), x.isnan()
x.isinf()
x.isfinite(), x.sigmoid(), (x - 1).relu(), x.t(), x.numel()
torch.sum(x), torch.sum(x, 1), torch.sum(x, dim=0, keepdim=True), x.sum(), x.sum(1), x.sum((0, 1))
x.sum(-1, True)
torch.mean(x, 0), x.mean(), x.mean(dim=1, keepdim=True), torch.prod(x, 1), x.prod()
torch.all(x > 1), (x > 1).all(1), torch.any(x > 1), (x > 1).any(dim=0)
torch.argmax(x), x.argmax(1), x.argmax(dim=-1, keepdim=True), torch.argmin(x, 1), x.argmin()
torch.std(x), x.std(1), x.std(dim=0, keepdim=True), torch.var(x, 1), x.var()
torch.logsumexp(x, 1), x.logsumexp(dim=0), torch.cumsum(x, 1), x.cumsum(dim=0)
torch.unsqueeze(x, 0), x.unsqueeze(-1), torch.squeeze(x.unsqueeze(0)), x.unsqueeze(1).squeeze(1)
torch.transpose(x, 0, 1), x.transpose(-1, 0), torch.unbind(x), x.unbind(1), torch.chunk(x, 2, 1), x.chunk(3)
torch.split(x, 2, dim=1), x.split(2), x.split([1, 3], dim=1)
torch.flip(x, [0]), x.flip(0, 1), torch.clamp(x, 0.5, 1.0), x.clamp(min=0.5), x.clamp(max=1.0)
torch.pow(x, 2), x.pow(0.5), torch.mul(x, 2), x.mul(x), torch.add(x, 1), x.add(x), torch.sub(x, 1), x.sub(2)
torch.div(x, 2), x.div(x), torch.eq(x, 1), x.eq(x), torch.ne(x, 1), x.ne(1), torch.gt(x, 1), x.gt(1)
torch.lt(x, 1)
x.lt(1), torch.ge(x, 1), x.ge(1), torch.le(x, 1), x.le(1)
torch.matmul(x, x.T), x.matmul(x.t()), torch.mm(x, x.T), x.mm(x.T), torch.mv(x, x[0]), x.mv(x[1])
torch.dot(x[0], x[1]), x[0].dot(x[1]), torch.outer(x[0], x[1]), x[0].outer(x[1])
torch.bmm(x.unsqueeze(0), x.T.unsqueeze(0)), x[None].bmm(x.T[None])
torch.masked_fill(x, x > 1, 0.0), x.masked_fill(x < 1, -1e9), x.masked_fill(x > 1, float("-inf"))
torch.repeat_interleave(x, 2, 0), x.repeat_interleave(3, dim=1)
torch.index_select(x, 1, torch.tensor([2, 0])), x.index_select(0, torch.tensor([1]))
torch.topk(x, 2), x.topk(k=3)[0], torch.tril(x), x.tril(-1), torch.triu(x, 1), x.triu(diagonal=1)
torch.max(x), torch.max(x, 1)[0], torch.max(x, dim=0).indices, x.max(), x.max(1)[1], x.max(-1, True).values
torch.min(x), x.min(1)[0], x.min(dim=0)[1], torch.min(x, 0)
torch.softmax(x, 1), x.softmax(-1), torch.log_softmax(x, dim=0), x.log_softmax(1)
F.relu(x - 1), F.tanh(x), F.sigmoid(x), F.silu(x), F.elu(x - 1), F.elu(x - 1, alpha=2.0), F.gelu(x)
F.softplus(x)
F.leaky_relu(x - 1), F.leaky_relu(x - 1, 0.2), F.softmax(x, dim=1), F.log_softmax(x, 1)
F.one_hot(torch.argmax(x, 1), 4), F.one_hot(x.argmax(0), num_classes=5)
F.mse_loss(x, x + 1), F.mse_loss(x, 2 * x, reduction="sum"), F.l1_loss(x, 2 * x)
F.cross_entropy(x, torch.argmax(x, 1)), F.cross_entropy(x, x.argmin(1), ignore_index=0, reduction="sum")
F.nll_loss(F.log_softmax(x, 1), torch.argmax(x, 1))
torch.concat([x, x]), torch.cat((x, x), 1), torch.cat([x, x], dim=-1), torch.stack([x, x])
torch.stack((x, x), dim=1)
torch.permute(x, (1, 0)), x.permute(1, 0), x.permute((1, 0)), torch.reshape(x, (2, 6)), x.reshape(6, 2)
x.reshape(-1)
torch.where(x > 1, x, -x), torch.maximum(x, 1 / x), torch.minimum(x, 1 / x)
torch.einsum("ij,kj->ik", x, x), torch.einsum("ij->j", x), torch.einsum("ij,ij->i", [x, x])
torch.arange(5), torch.arange(1, 4), torch.arange(0, 1, 0.25), torch.arange(3, dtype=torch.float)
torch.zeros(2, 3), torch.zeros((2, 3)), torch.zeros(x.size(1)), torch.zeros(x.shape[0], 2, dtype=torch.long)
torch.zeros(x.size()), torch.zeros(*x.shape), torch.ones(2, device="cpu"), torch.ones(size=(2, 3))
torch.empty(2, 3).size()
torch.full((2, 3), 7.0), torch.eye(3), torch.tensor([1.0, 2.0]), torch.tensor(3), torch.as_tensor([1, 2])
torch.from_numpy(np.arange(3.0)), torch.zeros_like(x), torch.ones_like(x, dtype=torch.int)
torch.full_like(x, 2.0)
torch.linspace(0, 1, 5), Variable(x), torch.is_tensor(x), torch.is_grad_enabled() is not None
nn.Transformer.generate_square_subsequent_mask(3), x.narrow(1, 0, 1)
x.narrow(1, 1, 2), x.narrow(0, 0, length=1), np.array([1.0, 2.0]).repeat(2), x.numpy().repeat(2, 1)
x.type(torch.FloatTensor), x.type(torch.Tensor), x.type(torch.int32), (4 * x).type(torch.LongTensor)
x.size(), x.size(0), x.size(dim=-1), x.shape, x.dim(), x.ndimension(), len(x), x.view(2, 6), x.view(-1)
x.view(x.size(1), -1), x.view((4, 3)), x.view_as(x), x[0].expand(2, 4), x[:1].expand_as(x), x.repeat(2, 1)
x[0].repeat(2, 3), x.flatten(), torch.flatten(x)
x.detach(), x.data, x.contiguous(), x.clone(), x.cpu(), x.detach().cpu().numpy(), x.type_as(x), x.to("cpu")
x.cuda() if False else x, x.to(torch.float64), x.to(dtype=torch.long), x.to(x.dtype), x.new_zeros(2, 3)
x.new_ones((2,))
x.new(2, 3).zero_(), x.float(), x.double(), x.half(), x.bfloat16().float(), x.long(), x.int(), (x > 1).bool()
x.requires_grad_(), x.T, x.ndim
math.pi * x, torch.pi * x, torch.inf, x * 2 if isinstance(x, torch.Tensor) else None, x[:, -1], x[..., 0]
x[x.size(0) - 1]
"""

# Statements in a function of x that returns y.
STATEMENTS = {
    "an item of an item": "y = torch.zeros(3, 1, 4)\ny[1][0][2] = 5.0\ny[0][0][1] += 2",
    "an index that comes twice": "y = torch.zeros(3)\ny[torch.tensor([0, 0, 1])] += 1",
    "a row is set": """
y = torch.zeros(3, 4)
y[1] = x[0]
""",
    "a part is set": """
y = torch.zeros_like(x)
y[:, 1:] = x[:, :-1]
""",
    "a part is added to": """
y = x.clone()
y[0] += 2
y[:, 1] *= x[:, 0]
""",
    "a part of a part": """
y = torch.zeros(2, 3, 4)
y[1, 2] = x[0]
y[0, :, 0] -= 1
""",
    "values and indices": """
v, i = x.max(1)
y = v * i
""",
    "a list stays one": """
y = []
y.append(x)
y += [x * 2]
y[0] = x - 1
y = torch.stack(y)
""",
    "axes are expanded": """
z = x.unsqueeze(1)
y = z.expand(-1, 5, -1)
""",
    "the rest is flattened": """
z = x.unsqueeze(1)
y = z.flatten(1) + torch.flatten(z, start_dim=1)
""",
    "branches and loops": """
y = x
for i in range(x.size(1)):
    if i % 2:
        y = y + x[:, i].unsqueeze(1)
    elif x.size(0) == i:
        y = x
    else:
        y = torch.tanh(y)
while y.dim() < 3: y = y.unsqueeze(0)
try:
    y = y.view(7)
except (RuntimeError, TypeError):
    y = y.squeeze(0)
""",
    "no gradient is asked for": """
with torch.no_grad():
    y = x.exp()  # not here
""",
    "devices go": """
dev = x.device
here = "cuda" if torch.cuda.is_available() else "cpu"
y = torch.zeros(2, device=dev).to(dev)
y = y.to(x.device).to("cpu").to(here)
""",
    "what is not of torch": """
words = "a b".split(" ")
y = x * len(words)
assert x.size(0) == 3, f"{x.size(0)} rows"
""",
    "a function inside": """
def twice(z, dtype=torch.float32):
    return torch.cat([z, z]).to(dtype)  # both
y = twice(x)
""",
    "a function is handed on": """
act = torch.tanh if x.size(0) > 1 else torch.relu
y = act(x)
""",
    "lines over lines": """
y = torch.cat(
    [
        x,  # as it is
        torch.tanh(x),
    ],
    dim=1,
)
""",
    "lambdas and dictionaries": """
half = {"it": lambda z: z.size(1) // 2}
if (lambda z: z.size(0) > 1)(x):
    y = x[:, : half["it"](x)].contiguous()
""",
}
