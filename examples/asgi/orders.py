"""Orders over HTTP: other programs find it as ``orders`` while it accepts connections."""

from fastapi import FastAPI

from microreg.integrations.asgi import Announced

app = FastAPI()
stock: dict[int, str] = {1: "a lamp", 2: "a chair"}


async def healthy() -> bool:
    """Whether calls are welcome; the node is critical while they are not, and nobody selects it."""
    return bool(stock)


@app.get("/orders/{number}")
async def order(number: int) -> dict[str, str]:
    return {"item": stock[number]}


app.add_middleware(Announced, service="orders", version="1.2", check=healthy)
