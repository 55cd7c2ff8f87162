from microreg.backends.mdns.records import Text
from microreg.model import Service
def f(t: Text, s: Service) -> None:
    reveal_type(t.record)
    reveal_type(t.name)
    reveal_type(s)
