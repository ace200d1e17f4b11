# pyright: reportMissingImports=false
"""A plain handler, one call of the model a request: what most people write first. uvicorn fastapi_server:app"""

from common import Classifier
from fastapi import FastAPI
from pydantic import BaseModel

app, classify = FastAPI(), Classifier()


class Body(BaseModel):
    text: str


@app.post("/predict")
def predict(body: Body) -> dict[str, float]:
    return classify([body.text])[0]
