"""How many of a thing there are. Two of these run, and nobody cares which of them answers."""

import uvicorn
from fastapi import FastAPI

from microreg.integrations.asgi import Announced

app = FastAPI()
LEFT = {"lamp": 7, "chair": 3}


@app.get("/stock/{item}")
async def left(item: str) -> dict[str, int]:
    return {"left": LEFT.get(item, 0)}


app.add_middleware(Announced, service="stock", version="1.0")

if __name__ == "__main__":
    uvicorn.run(app, port=0, log_level="warning")  # any free port: others hear of it from the registry
