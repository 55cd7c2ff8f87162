"""What microreg_etcd uses of grpc.aio."""

from enum import Enum
from typing import Final, Literal

class EndOfStream(Enum):
    EOF = ...

EOF: Final[Literal[EndOfStream.EOF]]

class Call: ...
