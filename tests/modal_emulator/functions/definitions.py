"""What a function is: its code, image, resources and limits, by version."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from grpclib import GRPCError, Status
from modal_proto import api_pb2

from modal_emulator.environments import Environments
from modal_emulator.rpc import answers

if TYPE_CHECKING:
    from collections.abc import Callable

    from modal_emulator.apps import App
    from modal_emulator.world import World

DEFAULT_TIMEOUT = 300.0  # seconds of one attempt; Modal's docs
DEFAULT_SCALEDOWN = 60.0  # seconds that an idle container waits; Modal's docs
GPUS = frozenset(
    [
        "T4",
        "L4",
        "A10",
        "A10G",
        "L40S",
        "A100",
        "A100-40GB",
        "A100-80GB",
        "H100",
        "H100!",
        "H200",
        "B200",
        "B200+",
        "B300",
        "RTX-PRO-6000",
        "ANY",
    ]
)  # Modal's docs; guess: that the server refuses all others


@dataclass
class Definition:
    """One version of a function."""

    function_id: str
    app_id: str
    definition_id: str
    proto: api_pb2.Function
    data: api_pb2.FunctionData
    metadata: api_pb2.FunctionHandleMetadata
    serialized_params: bytes = b""
    scaling: api_pb2.AutoscalerSettings = field(default_factory=api_pb2.AutoscalerSettings)

    @property
    def timeout(self) -> float:
        """Seconds that one attempt may take."""
        return self.proto.timeout_secs or DEFAULT_TIMEOUT

    @property
    def startup_timeout(self) -> float:
        """Seconds until a container asks for its first input."""
        return self.proto.startup_timeout_secs or self.timeout

    @property
    def scaledown(self) -> float:
        """Seconds that a container may idle."""
        return self.scaling.scaledown_window or self.proto.task_idle_timeout_secs or DEFAULT_SCALEDOWN

    @property
    def most(self) -> int:
        """How many containers there may be; 0: no limit of the function's own."""
        return self.scaling.max_containers or self.proto.concurrency_limit

    @property
    def least(self) -> int:
        """How many containers are kept, idle or not."""
        return self.scaling.min_containers or self.proto.warm_pool_size

    @property
    def concurrency(self) -> int:
        """Inputs that one container works on at a time."""
        return self.proto.max_concurrent_inputs or 1


class Definitions:
    """All functions of all apps."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._functions: dict[str, Definition] = {}
        self._staged: dict[str, Definition] = {}
        self._announced: dict[str, api_pb2.FunctionHandleMetadata] = {}
        self.when_changed: list[Callable[[Definition], None]] = []
        world.apps.layout_of = self.layout
        world.apps.when_published.append(self._publish)

    def reset(self) -> None:
        self._functions.clear()
        self._staged.clear()
        self._announced.clear()

    def require(self, function_id: str) -> Definition:
        """The latest published version.

        Raises:
            GRPCError: NOT_FOUND.
        """
        found = self._functions.get(function_id) or self._staged.get(function_id)
        if found is None:
            raise GRPCError(Status.NOT_FOUND, f"Function {function_id} not found")
        return found

    def layout(self, app: App) -> api_pb2.AppLayout:
        """An app's functions by tag, with what the client must know of each."""
        layout = api_pb2.AppLayout(function_ids=app.functions, class_ids=app.classes)
        for function_id in app.functions.values():
            metadata = self.require(function_id).metadata
            layout.objects.add(object_id=function_id, function_handle_metadata=metadata)
        return layout

    @answers("FunctionPrecreate", once=True)
    async def precreate(self, request: api_pb2.FunctionPrecreateRequest) -> api_pb2.FunctionPrecreateResponse:
        function_id = request.existing_function_id or self._world.new_id("fu")
        metadata = api_pb2.FunctionHandleMetadata(
            function_name=request.function_name,
            function_type=request.function_type,
            function_schema=request.function_schema,
            supported_input_formats=request.supported_input_formats,
            supported_output_formats=request.supported_output_formats,
            app_id=request.app_id,
        )
        self._announced[function_id] = metadata
        return api_pb2.FunctionPrecreateResponse(function_id=function_id, handle_metadata=metadata)

    @answers("FunctionCreate", once=True)
    async def create(self, request: api_pb2.FunctionCreateRequest) -> api_pb2.FunctionCreateResponse:
        self._world.apps.require(request.app_id)
        ranked = request.function_data.ranked_functions
        proto = ranked[0].function if ranked else request.function
        for one in [entry.function for entry in ranked] or [proto]:
            check_gpu(one.resources.gpu_config)
        data = request.function_data if ranked else data_of(proto)
        function_id = request.existing_function_id or self._world.new_id("fu")
        metadata = api_pb2.FunctionHandleMetadata(
            function_name=proto.function_name,
            function_type=proto.function_type,
            function_schema=proto.function_schema,
            supported_input_formats=proto.supported_input_formats,
            supported_output_formats=proto.supported_output_formats,
            definition_id=self._world.new_id("de"),
            app_id=request.app_id,
        )
        made = Definition(function_id, request.app_id, metadata.definition_id, proto, data, metadata)
        self._staged[function_id] = made
        return api_pb2.FunctionCreateResponse(
            function_id=function_id, function=proto, function_data=data, handle_metadata=metadata
        )

    async def _publish(self, app: App) -> None:
        """From now on calls get the code that was created last; containers with the old one end."""
        for function_id in app.functions.values():
            made = self._staged.pop(function_id, None)
            if made is not None:
                self._functions[function_id] = made
                for changed in self.when_changed:
                    changed(made)

    @answers("FunctionGet")
    async def get(self, request: api_pb2.FunctionGetRequest) -> api_pb2.FunctionGetResponse:
        environment = self._world.area(Environments).named(request.environment_name)
        app = self._world.apps.named(request.app_name, environment)
        if app is None or request.object_tag not in app.functions:
            what = f"Function '{request.object_tag}' of App '{request.app_name}'"  # guess: text
            raise GRPCError(Status.NOT_FOUND, f"{what} not found in environment '{environment}'")
        found = self.require(app.functions[request.object_tag])
        return api_pb2.FunctionGetResponse(
            function_id=found.function_id, handle_metadata=found.metadata, function=found.data
        )

    @answers("FunctionGetById")
    async def by_id(self, request: api_pb2.FunctionGetByIdRequest) -> api_pb2.FunctionGetByIdResponse:
        found = self.require(request.function_id)
        return api_pb2.FunctionGetByIdResponse(function=found.data, handle_metadata=found.metadata)

    @answers("FunctionBindParams", once=True)
    async def bind(self, request: api_pb2.FunctionBindParamsRequest) -> api_pb2.FunctionBindParamsResponse:
        """`with_options`: the same code with other resources, limits, secrets; a function of its own here."""
        base, asked = self.require(request.function_id), request.function_options
        proto = api_pb2.Function()
        proto.CopyFrom(base.proto)
        check_gpu(asked.resources.gpu_config)
        if asked.HasField("resources"):
            proto.resources.MergeFrom(asked.resources)
        if asked.HasField("retry_policy"):
            proto.retry_policy.CopyFrom(asked.retry_policy)
        for name in (
            "concurrency_limit",
            "timeout_secs",
            "task_idle_timeout_secs",
            "warm_pool_size",
            "max_concurrent_inputs",
            "target_concurrent_inputs",
            "batch_max_size",
            "batch_linger_ms",
        ):
            if asked.HasField(name):
                setattr(proto, name, getattr(asked, name))
        if asked.replace_secret_ids:
            proto.ClearField("secret_ids")
        proto.secret_ids.extend(asked.secret_ids)
        if asked.replace_volume_mounts:
            proto.ClearField("volume_mounts")
        proto.volume_mounts.extend(asked.volume_mounts)
        metadata = api_pb2.FunctionHandleMetadata()
        metadata.CopyFrom(base.metadata)
        metadata.definition_id = self._world.new_id("de")
        metadata.base_function_id = base.function_id
        made = Definition(
            self._world.new_id("fu"),
            base.app_id,
            metadata.definition_id,
            proto,
            data_of(proto),
            metadata,
            serialized_params=request.serialized_params,
        )
        self._functions[made.function_id] = made
        return api_pb2.FunctionBindParamsResponse(
            bound_function_id=made.function_id, handle_metadata=metadata
        )

    @answers("FunctionUpdateSchedulingParams")
    async def scale(
        self, request: api_pb2.FunctionUpdateSchedulingParamsRequest
    ) -> api_pb2.FunctionUpdateSchedulingParamsResponse:
        found = self.require(request.function_id)
        found.scaling.MergeFrom(request.settings)
        for changed in self.when_changed:
            changed(found)
        return api_pb2.FunctionUpdateSchedulingParamsResponse(current_settings=self._settings(found))

    @answers("FunctionGetSchedulingParams")
    async def scaling(
        self, request: api_pb2.FunctionGetSchedulingParamsRequest
    ) -> api_pb2.FunctionGetSchedulingParamsResponse:
        answer = api_pb2.FunctionGetSchedulingParamsResponse()
        settings = self._settings(self.require(request.function_id))
        answer.autoscaler_configuration.settings.CopyFrom(settings)
        return answer

    @staticmethod
    def _settings(found: Definition) -> api_pb2.AutoscalerSettings:
        return api_pb2.AutoscalerSettings(
            min_containers=found.least, max_containers=found.most, scaledown_window=int(found.scaledown)
        )

    def shown(self) -> dict[str, list[dict[str, object]]]:
        return {
            "functions": [
                {
                    "id": key,
                    "app": found.app_id,
                    "name": found.proto.function_name,
                    "module": found.proto.module_name,
                    "definition": found.definition_id,
                    "image": found.proto.image_id,
                    "block_network": found.proto.block_network,
                    "timeout": found.timeout,
                    "milli_cpu": found.proto.resources.milli_cpu,
                    "memory_mb": found.proto.resources.memory_mb,
                    "gpu": found.proto.resources.gpu_config.gpu_type,
                    "regions": list(found.proto.scheduler_placement.regions),
                    "cloud": found.proto.cloud_provider_str,
                    "secrets": list(found.proto.secret_ids),
                }
                for key, found in self._functions.items()
            ]
        }


def check_gpu(config: api_pb2.GPUConfig) -> None:
    """Refuse a GPU that there is none of: only the server knows them.

    Raises:
        GRPCError: INVALID_ARGUMENT.
    """
    if config.gpu_type and config.gpu_type.upper() not in GPUS:
        raise GRPCError(Status.INVALID_ARGUMENT, f"Unknown GPU type: {config.gpu_type}")  # guess: text


def data_of(proto: api_pb2.Function) -> api_pb2.FunctionData:
    """The same definition in the form that has one entry for each choice of a GPU."""
    data = api_pb2.FunctionData()
    shared = {field.name for field in api_pb2.FunctionData.DESCRIPTOR.fields}
    for descriptor, value in proto.ListFields():
        if descriptor.name not in shared:
            continue
        mine = getattr(data, descriptor.name)
        if hasattr(mine, "CopyFrom"):
            mine.CopyFrom(value)
        elif hasattr(mine, "MergeFrom"):
            mine.MergeFrom(value)
        else:
            setattr(data, descriptor.name, value)
    data.ranked_functions.add(rank=0, function=proto)
    return data
