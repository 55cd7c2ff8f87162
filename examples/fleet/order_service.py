"""Orders, which asks the stock before it says yes: a service that calls another one by its name."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TypedDict

import httpx
import uvicorn
from fastapi import FastAPI, HTTPException, Request

from microreg import Selector, connect
from microreg.integrations.asgi import Announced
from microreg.integrations.httpx import AsyncRegistryTransport


class State(TypedDict):
    """What the application has while it runs."""

    http: httpx.AsyncClient


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[State]:
    async with connect() as registry, Selector(registry) as selector:
        services = AsyncRegistryTransport(selector)
        async with httpx.AsyncClient(mounts={"all://*.microreg": services}) as http:
            yield {"http": http}


app = FastAPI(lifespan=lifespan)


@app.get("/orders/{item}")
async def order(item: str, request: Request) -> dict[str, bool]:
    http: httpx.AsyncClient = request.state.http
    try:
        answer = await http.get(f"http://stock.microreg/stock/{item}")
    except httpx.TransportError as error:
        raise HTTPException(503, f"the stock does not answer: {error}") from error
    return {"accepted": answer.raise_for_status().json()["left"] > 0}


app.add_middleware(Announced, service="orders", version="1.0")

if __name__ == "__main__":
    uvicorn.run(app, port=0, log_level="warning")
