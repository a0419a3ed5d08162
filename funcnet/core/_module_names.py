"""Names of nn.Module that a net does not have, and where to find what they stand for."""

HINTS_BY_NAME = {
    "train": "A net has no mode: net.apply(params, buffers, x, train=True).",
    "eval": "A net has no mode: net.apply(params, buffers, x) runs in eval mode.",
    "training": "A net has no mode: its body reads p.training of each call.",
    "parameters": "A net holds no tensors: params, buffers = net.init(0); see funcnet.tree.flatten(params).",
    "named_parameters": "A net holds no tensors: params, buffers = net.init(0); see funcnet.tree.flatten(params).",
    "buffers": "A net holds no tensors: params, buffers = net.init(0).",
    "state_dict": "A net holds no tensors: funcnet.to_state_dict(net, params, buffers).",
    "load_state_dict": "A net holds no tensors: params, buffers = funcnet.from_state_dict(net, state_dict).",
    "to": "A net holds no tensors: funcnet.tree.to(params, device_or_dtype).",
    "cuda": "A net holds no tensors: funcnet.tree.to(params, 'cuda').",
    "half": "A net holds no tensors: funcnet.tree.to(params, torch.float16).",
    "double": "A net holds no tensors: funcnet.tree.to(params, torch.float64).",
    "zero_grad": "Gradients are values: loss, grads = funcnet.value_and_grad(loss)(params).",
    "requires_grad_": "Gradients are values: see net.freeze(paths) and funcnet.tree.partition(params, net.frozen).",
    "modules": "net.named_nets() gives paths and nets.",
    "named_modules": "net.named_nets() gives paths and nets.",
    "children": "net.named_nets() gives paths and nets.",
}
"""The sentences that end the error for a missing attribute, for people who are used to nn.Module."""
