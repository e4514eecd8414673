#!/usr/bin/python3
"""Drives a pod from pull to removal with Google's gRPC implementation.

    steps.py unix:///PATH IMAGE LOG_DIRECTORY CGROUP_PARENT

Nothing is generated: the agent's reflection service tells the messages. So
this also shows that reflection is complete, and that the schema is understood
by a compiler that is not ours.
"""

import sys
import time

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

ENDPOINT, IMAGE, LOGS, CGROUP = sys.argv[1:5]


def message_class(pool, name):
    descriptor = pool.FindMessageTypeByName(name)
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    return message_factory.MessageFactory(pool).GetPrototype(descriptor)


def reflection_messages():
    """The few fields of grpc.reflection.v1 that are needed here."""
    file = descriptor_pb2.FileDescriptorProto(
        name="reflection.proto", package="r", syntax="proto3"
    )

    def message(name, *fields):
        added = file.message_type.add(name=name)
        for number, field, kind, label, of in fields:
            added.field.add(
                name=field, number=number, type=kind, label=label, type_name=of
            )

    string, raw, nested = 9, 12, 11
    message("Request", (4, "symbol", string, 1, None), (7, "list", string, 1, None))
    message("Files", (1, "files", raw, 3, None))
    message("Service", (1, "name", string, 1, None))
    message("Services", (1, "services", nested, 3, ".r.Service"))
    message(
        "Response",
        (4, "files", nested, 1, ".r.Files"),
        (6, "list", nested, 1, ".r.Services"),
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_class(pool, "r.Request"), message_class(pool, "r.Response")


class Agent:
    def __init__(self, endpoint):
        self.channel = grpc.insecure_channel(
            endpoint, options=[("grpc.default_authority", "localhost")]
        )
        grpc.channel_ready_future(self.channel).result(timeout=10)
        self.pool = descriptor_pool.DescriptorPool()
        request, response = reflection_messages()
        reflect = self.channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        listed = next(reflect(iter([request(list="*")])))
        self.services = [service.name for service in listed.list.services]
        seen = set()
        for service in self.services:
            answer = next(reflect(iter([request(symbol=service)])))
            files = [
                descriptor_pb2.FileDescriptorProto.FromString(raw)
                for raw in answer.files.files
            ]
            for file in sorted(files, key=lambda f: len(f.dependency)):
                if file.name not in seen:
                    seen.add(file.name)
                    self.pool.Add(file)

    def call(self, service, method, **fields):
        found = self.pool.FindServiceByName(service).FindMethodByName(method)
        request = message_class(self.pool, found.input_type.full_name)
        response = message_class(self.pool, found.output_type.full_name)
        unary = self.channel.unary_unary(
            f"/{service}/{method}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        return unary(request(**fields), timeout=60)

    def runtime(self, method, **fields):
        return self.call("runtime.v1.RuntimeService", method, **fields)

    def images(self, method, **fields):
        return self.call("runtime.v1.ImageService", method, **fields)

    def health(self, service):
        """grpc.health.v1: field 1 of the request is the service, of the answer the state."""
        check = self.channel.unary_unary("/grpc.health.v1.Health/Check")
        name = service.encode()
        return check(bytes([10, len(name)]) + name if name else b"", timeout=10)


def step(text):
    print(f"- {text}", flush=True)


def main():
    agent = Agent(ENDPOINT)
    step(f"services: {', '.join(sorted(agent.services))}")
    for service in (
        "runtime.v1.RuntimeService",
        "runtime.v1.ImageService",
        "berth.v1.Node",
    ):
        assert service in agent.services, service
    for service in ("", "runtime.v1.RuntimeService", "runtime.v1.ImageService"):
        assert agent.health(service) == b"\x08\x01", f"{service!r} is not SERVING"

    version = agent.runtime("Version")
    assert version.runtime_api_version == "v1"
    step(f"{version.runtime_name} {version.runtime_version}")

    image = agent.images("PullImage", image={"image": IMAGE}).image_ref
    assert image.startswith("sha256:")
    status = agent.images("ImageStatus", image={"image": IMAGE})
    assert status.image.id == image
    step(f"pulled {image}")

    config = {
        "metadata": {"name": "python", "uid": CGROUP, "namespace": "test"},
        "hostname": "python",
        "log_directory": LOGS,
        "linux": {"cgroup_parent": CGROUP},
    }
    pod = agent.runtime("RunPodSandbox", config=config).pod_sandbox_id
    container = agent.runtime(
        "CreateContainer",
        pod_sandbox_id=pod,
        config={
            "metadata": {"name": "count"},
            "image": {"image": image},
            "log_path": "python.log",
        },
        sandbox_config=config,
    ).container_id
    agent.runtime("StartContainer", container_id=container)
    step(f"runs {container[:12]}")

    listed = agent.runtime("ListContainers").containers
    assert [c.id for c in listed] == [container]
    done = agent.runtime(
        "ExecSync", container_id=container, cmd=["hostname"], timeout=10
    )
    assert (done.stdout, done.exit_code) == (b"python\n", 0), done

    log = agent.runtime("ContainerStatus", container_id=container).status.log_path
    for _ in range(100):
        with open(log, encoding="utf-8") as file:
            if "stdout F count 3\n" in file.read():
                break
        time.sleep(0.05)
    else:
        raise AssertionError("count 3 was never logged")

    agent.runtime("StopContainer", container_id=container, timeout=10)
    status = agent.runtime("ContainerStatus", container_id=container).status
    assert status.exit_code == 7, status
    step("stopped with 7")

    try:
        agent.runtime("ContainerStatus", container_id="0" * 64)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND, error
    else:
        raise AssertionError("an unknown container has a status")

    agent.runtime("RemoveContainer", container_id=container)
    agent.runtime("StopPodSandbox", pod_sandbox_id=pod)
    agent.runtime("RemovePodSandbox", pod_sandbox_id=pod)
    agent.images("RemoveImage", image={"image": IMAGE})
    assert not agent.runtime("ListPodSandbox").items
    print("all steps done")


if __name__ == "__main__":
    main()
