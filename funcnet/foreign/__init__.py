"""How a module that nobody knows is run as a pure function.

``from_module`` makes a net of funcnet's own wherever that is exact. Any other module, one with a forward of its own,
becomes a :class:`Wrapped`: its own forward runs, and everything that could make that impure is kept from it.

**What is copied when.** When a module is converted, ``CopyPool`` takes one pristine copy of it. It has no weights (its
tensors are on the meta device), and it shares no object with the original that a call could change: closures, weak
references and locks are copied too (``_isolated_copies.py``). The first call of each mode makes a copy of that copy
and leases it; the next calls lease it again (``_leased_copies.py``). In each call

1. the inputs and the buffers are copied, because a forward may write to them in place;
2. a copy of the module is leased, which no other call has, and the tensors of the call are put into it, wherever it
   refers to one: in its dicts of parameters and buffers, in a list beside them, in the closure of a function;
3. the forward runs;
4. the buffers, which the forward may have written to or replaced, are recorded in the tree that the call returns;
5. the tensors are taken out again, and the copy is put back and returned to the pool.

**What is put back.** A forward may leave a counter, a cache or a new attribute behind. A ``Snapshot`` of everything
that can be reached from a copy, by identity, shows that. Dicts get back what they held.

**What the code asks for.** Some protections cost time, and are taken only where the code of the module has a word that
makes them needed (``_code_words.py``). If it asks its parameters who they are, as ``w.requires_grad`` does, the tensors
of the call answer as the parameters of the module do (``_parameter_answers.py``). If it changes a setting of the
process, as ``torch.set_grad_enabled(False)`` does, that is put back (``funcnet/_global_settings.py``).

**When a copy is thrown away.** If anything else is not as it was (a list grew, a tensor was written to, a generator
advanced), the copy is thrown away and the next call makes a new one. So it is if something still refers to the copy
after the call: ``torch.utils.checkpoint`` will run a part of it again in backward, with the weights of that call.

**Where draws get their keys.** From ``rng`` and the path of the submodule that draws (``_draws_by_path.py``). A forward
calls ``F.dropout`` or ``torch.rand``, which would draw from the global generator. The first such call is noticed
(``core/_global_draws.py`` tells how, and has the table of all roads); the path is read from the stack of frames; and
from then on that submodule is intercepted in all copies. With an int seed, in a process with one thread, nothing is
intercepted: the generator itself is set to the seed, so the bits are those of the module.

**Threads.** Calls share no copy, so they do not meet. What is global in the process (the generators of torch, Python
and NumPy) is used under one lock.

**Under torch.compile.** There are no frames and no reference counts in a trace. There is one copy per mode, which runs
by ``torch.func.functional_call`` and notes the path that is running by hooks (``_compiled_call.py``).
"""

from funcnet.foreign._wrapped import Wrapped as Wrapped

__all__ = ["Wrapped"]


def __dir__() -> list[str]:
    return [*__all__]
