"""What a net is and what it does, told before it is trusted with real work."""

from funcnet.inspect._summary import Row as Row
from funcnet.inspect._summary import Summary as Summary
from funcnet.inspect._summary import summary as summary
