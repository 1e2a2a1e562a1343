"""A broker that takes tokens, and the token endpoint that issues them."""

import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from stormfold.local.kafka import EmbeddedKafka
from stormfold.local.process import HOST, free_port

_LOGIN = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required"
SCOPE = "kafka"
CLIENT, SECRET = "stormfold", "correct horse+42"


class TokenKafka(EmbeddedKafka):
    """A broker with an open listener, and one at `guarded` that takes unsigned tokens with the scope `SCOPE`.

    It ends connections when their token expires.
    """

    def __init__(self, data_dir: Path) -> None:
        port, guarded, controller = free_port(), free_port(), free_port()
        self.guarded = f"{HOST}:{guarded}"
        listeners = f"PLAINTEXT://{HOST}:{port},TOKENS://{self.guarded}"
        options = f'unsecuredLoginStringClaim_sub="broker" unsecuredValidatorRequiredScope="{SCOPE}"'
        properties = {
            "controller.quorum.voters": f"1@{HOST}:{controller}",
            "listeners": f"{listeners},CONTROLLER://{HOST}:{controller}",
            "advertised.listeners": listeners,
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,TOKENS:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
            "listener.name.tokens.sasl.enabled.mechanisms": "OAUTHBEARER",
            "listener.name.tokens.oauthbearer.sasl.jaas.config": f"{_LOGIN} {options};",
            "listener.name.tokens.oauthbearer.connections.max.reauth.ms": "3600000",
            "group.min.session.timeout.ms": "1000",
        }
        super().__init__(data_dir, port, properties=properties)


class TokenEndpoint:
    """Issues tokens to one client by the grant `client_credentials`."""

    def __init__(self) -> None:
        self.address = f"{HOST}:{free_port()}"
        self.url = f"http://{self.address}/token"
        self.lifetime = 300
        """Seconds for which a new token is valid."""
        self.scope = SCOPE
        self.issued = 0
        self.status = 200

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Answers until the end of the block."""
        app = web.Application()
        app.add_routes([web.post("/token", self._token)])
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        host, port = self.address.split(":")
        await web.TCPSite(runner, host, int(port)).start()
        try:
            yield
        finally:
            await runner.cleanup()

    async def _token(self, request: web.Request) -> web.Response:
        login = base64.b64decode(request.headers["Authorization"].removeprefix("Basic ")).decode()
        form = await request.post()
        if self.status != 200:
            return web.Response(status=self.status, text="busy")
        if login != f"{CLIENT}:correct+horse%2B42" or form["grant_type"] != "client_credentials":
            refusal = {"error": "invalid_client", "error_description": "wrong client or secret"}
            return web.json_response(refusal, status=401)
        self.issued += 1
        return web.json_response({"access_token": self._unsigned(), "expires_in": self.lifetime})

    def _unsigned(self) -> str:
        now = time.time()
        claims = {"sub": CLIENT, "iat": now, "exp": now + self.lifetime, "scope": self.scope}
        return f"{_encoded({'alg': 'none'})}.{_encoded(claims)}."


def _encoded(part: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
