"""Apps: what functions and sandboxes belong to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from .environments import Environments
from .rpc import Call, answers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .world import World

_ENDED = (api_pb2.APP_STATE_STOPPED, api_pb2.APP_STATE_STOPPING)
_CREATES = (
    api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING,
    api_pb2.OBJECT_CREATION_TYPE_CREATE_OVERWRITE_IF_EXISTS,
)


@dataclass
class App:
    """One app, alive or stopped."""

    app_id: str
    name: str  # "" until it is deployed or looked up
    description: str
    environment: str
    state: int
    created_at: float
    tags: dict[str, str] = field(default_factory=dict)
    deployed_at: float = 0.0
    stopped_at: float = 0.0
    version: int = 0
    functions: dict[str, str] = field(default_factory=dict)  # tag -> function id
    classes: dict[str, str] = field(default_factory=dict)
    heartbeat_at: float = 0.0

    @property
    def ended(self) -> bool:
        """Whether it was stopped."""
        return self.state in _ENDED

    def lifecycle(self) -> api_pb2.AppLifecycle:
        """What the client is told of its times."""
        return api_pb2.AppLifecycle(
            app_state=self.state,  # type: ignore[arg-type]  # an enum's number
            created_at=self.created_at,
            deployed_at=self.deployed_at,
            stopped_at=self.stopped_at,
            version=self.version,
        )

    def metadata(self) -> api_pb2.AppHandleMetadata:
        """What a handle of the client knows of it."""
        return api_pb2.AppHandleMetadata(
            app_id=self.app_id,
            description=self.description,
            environment_name=self.environment,
            lifecycle=self.lifecycle(),
            functions=self.functions,
        )


class Apps:
    """All apps of the workspace."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._apps: dict[str, App] = {}
        self.layout_of: Callable[[App], api_pb2.AppLayout] = lambda _: api_pb2.AppLayout()
        self.when_published: list[Callable[[App], Awaitable[None]]] = []
        self.when_stopped: list[Callable[[App], Awaitable[None]]] = []

    def reset(self) -> None:
        self._apps.clear()

    def require(self, app_id: str) -> App:
        """The app with this id.

        Raises:
            GRPCError: NOT_FOUND.
        """
        if app_id not in self._apps:
            raise GRPCError(Status.NOT_FOUND, f"App {app_id} not found")
        return self._apps[app_id]

    def named(self, name: str, environment: str) -> App | None:
        """The living app with this name (or id) in an environment."""
        living = (app for app in self._apps.values() if not app.ended and app.environment == environment)
        return next((app for app in living if name and name in (app.name, app.app_id)), None)

    def _environment(self, name: str) -> str:
        return self._world.area(Environments).named(name)

    def _new(self, name: str, description: str, environment: str, state: int) -> App:
        app = App(self._world.new_id("ap"), name, description, environment, state, self._world.now())
        self._apps[app.app_id] = app
        return app

    @answers("AppCreate", once=True)
    async def create(self, request: api_pb2.AppCreateRequest) -> api_pb2.AppCreateResponse:
        environment = self._environment(request.environment_name)
        app = self._new("", request.description, environment, request.app_state)
        app.tags = dict(request.tags)
        return api_pb2.AppCreateResponse(
            app_id=app.app_id, app_page_url=f"https://modal.invalid/{app.app_id}"
        )

    @answers("AppGetOrCreate", once=True)
    async def get_or_create(self, request: api_pb2.AppGetOrCreateRequest) -> api_pb2.AppGetOrCreateResponse:
        environment = self._environment(request.environment_name)
        app = self.named(request.app_name, environment)
        if app is None:
            if request.object_creation_type not in _CREATES:
                raise GRPCError(
                    Status.NOT_FOUND, f"App '{request.app_name}' not found in environment '{environment}'"
                )  # guess: text
            state = api_pb2.APP_STATE_DEPLOYED  # guess: so the app outlives its client
            app = self._new(request.app_name, request.app_name, environment, state)
        return api_pb2.AppGetOrCreateResponse(app_id=app.app_id, handle_metadata=app.metadata())

    @answers("AppGetByDeploymentName")
    async def by_name(
        self, request: api_pb2.AppGetByDeploymentNameRequest
    ) -> api_pb2.AppGetByDeploymentNameResponse:
        environment = self._environment(request.environment_name)
        app = self.named(request.name, environment)
        if app is None:
            return api_pb2.AppGetByDeploymentNameResponse(environment_name=environment)
        return api_pb2.AppGetByDeploymentNameResponse(
            app_id=app.app_id, environment_name=environment, lifecycle=app.lifecycle()
        )

    @answers("AppGetLayout")
    async def layout(self, request: api_pb2.AppGetLayoutRequest) -> api_pb2.AppGetLayoutResponse:
        return api_pb2.AppGetLayoutResponse(app_layout=self.layout_of(self.require(request.app_id)))

    @answers("AppGetInfo")
    async def info(self, request: api_pb2.AppGetInfoRequest) -> api_pb2.AppGetInfoResponse:
        return api_pb2.AppGetInfoResponse(info=self.require(request.app_id).metadata())

    @answers("AppGetLifecycle")
    async def lifecycle(self, request: api_pb2.AppGetLifecycleRequest) -> api_pb2.AppGetLifecycleResponse:
        return api_pb2.AppGetLifecycleResponse(lifecycle=self.require(request.app_id).lifecycle())

    @answers("AppPublish", once=True)
    async def publish(self, request: api_pb2.AppPublishRequest, call: Call) -> api_pb2.AppPublishResponse:
        app = self.require(request.app_id)
        app.functions, app.classes = dict(request.function_ids), dict(request.class_ids)
        app.tags = dict(request.tags)
        app.state = request.app_state
        app.version += 1
        if request.name:
            app.name = request.name
        if app.state == api_pb2.APP_STATE_DEPLOYED:
            app.deployed_at = self._world.now()
        for published in self.when_published:
            await published(app)
        call.note(name=app.name, version=app.version)
        url = f"https://modal.invalid/{app.app_id}"
        return api_pb2.AppPublishResponse(url=url, deployed_at=app.deployed_at)

    @answers("AppHeartbeat")
    async def heartbeat(self, request: api_pb2.AppHeartbeatRequest) -> Empty:
        self.require(request.app_id).heartbeat_at = self._world.now()
        return Empty()

    @answers("AppClientDisconnect", once=True)
    async def disconnect(self, request: api_pb2.AppClientDisconnectRequest) -> Empty:
        app = self.require(request.app_id)
        if app.state in (api_pb2.APP_STATE_EPHEMERAL, api_pb2.APP_STATE_INITIALIZING):
            await self.stop(app)
        return Empty()

    @answers("AppStop", once=True)
    async def stop_asked(self, request: api_pb2.AppStopRequest) -> Empty:
        await self.stop(self.require(request.app_id))
        return Empty()

    async def stop(self, app: App) -> None:
        """End an app and all that runs in it."""
        if app.ended:
            return
        app.state, app.stopped_at = api_pb2.APP_STATE_STOPPED, self._world.now()
        for stopped in self.when_stopped:
            await stopped(app)

    @answers("AppList")
    async def listed(self, request: api_pb2.AppListRequest) -> api_pb2.AppListResponse:
        environment = self._environment(request.environment_name)
        return api_pb2.AppListResponse(
            apps=[
                api_pb2.AppListResponse.AppListItem(
                    app_id=app.app_id,
                    name=app.name,
                    description=app.description,
                    state=app.state,  # type: ignore[arg-type]  # an enum's number
                    created_at=app.created_at,
                    stopped_at=app.stopped_at,
                    metadata=app.metadata(),
                )
                for app in self._apps.values()
                if app.environment == environment
            ]
        )

    @answers("AppSetTags")
    async def set_tags(self, request: api_pb2.AppSetTagsRequest) -> Empty:
        self.require(request.app_id).tags = dict(request.tags)
        return Empty()

    @answers("AppGetTags")
    async def get_tags(self, request: api_pb2.AppGetTagsRequest) -> api_pb2.AppGetTagsResponse:
        return api_pb2.AppGetTagsResponse(tags=self.require(request.app_id).tags)

    def shown(self) -> dict[str, list[dict[str, object]]]:
        return {
            "apps": [
                {
                    "id": app.app_id,
                    "name": app.name,
                    "description": app.description,
                    "environment": app.environment,
                    "state": api_pb2.AppState.Name(app.state),  # type: ignore[arg-type]  # an enum's number
                    "version": app.version,
                    "tags": app.tags,
                    "functions": app.functions,
                }
                for app in self._apps.values()
            ]
        }
