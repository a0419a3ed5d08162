"""How a module that nobody knows is run as a pure function."""

from funcnet.foreign._wrapped import Wrapped as Wrapped
