"""`loyalty demo`: the story of a hotel check-out on real parts, told step by step, every step checked on what really arrived."""

from infra.demo.command import demo

__all__ = ["demo"]
