"""What a net is and what it does, told before it is trusted with real work."""

from funcnet.inspect._effect import Effect as Effect
from funcnet.inspect._effect import Effects as Effects
from funcnet.inspect._effects import effects as effects
from funcnet.inspect._summary import Row as Row
from funcnet.inspect._summary import Summary as Summary
from funcnet.inspect._summary import summary as summary
