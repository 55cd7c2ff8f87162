"""What microreg_consul uses of consul.callback."""

from collections.abc import Callable

from consul.base import Response

class CB:
    @classmethod
    def json(cls) -> Callable[[Response], dict[str, object] | None]: ...
