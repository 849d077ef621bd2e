"""Several models in one server: who is in memory, and who makes room."""

import threading

from serving import running

TEXT = "/v1/completions"


def ask(server, model, **more):
    return server.post(TEXT, {"model": model, "prompt": "hi", "max_tokens": 2, **more})


def names(server):
    return [model["name"] for model in server.http.get("/models/resident").json()["models"]]


def test_models_are_chosen_by_name_and_named_in_answers():
    with running("one=null", "two=null") as server:
        assert [model["id"] for model in server.http.get("/v1/models").json()["data"]] == ["one", "two"]
        assert ask(server, "two").json()["model"] == "two"
        missing = server.post(TEXT, {"prompt": "hi"})
        assert missing.status_code == 400
        assert "names no model" in missing.json()["error"]["message"]
        assert ask(server, "three").status_code == 404


def test_idle_models_leave_when_their_time_is_over_and_come_back():
    with running("null", "--keep-alive", "300ms") as server:
        server.wait_until(lambda: names(server) == [])
        assert ask(server, "null").status_code == 200
        assert names(server) == ["null"]
        server.wait_until(lambda: names(server) == [])


def test_unload_waits_for_who_is_answered():
    with running("null:20") as server:
        long = {}
        # The null model ends one answer in thirty by itself within so many tokens.
        asked = {"max_tokens": 40, "ignore_eos": True}
        request = threading.Thread(target=lambda: long.update(response=ask(server, "null", **asked)))
        request.start()
        server.wait_until(lambda: server.resident()["num_running"] == 1)
        assert server.post("/models/unload", {"model": "null"}).json()["status"] == "unloading"
        assert names(server) == ["null"]
        request.join()
        assert long["response"].json()["usage"]["completion_tokens"] == 40
        server.wait_until(lambda: names(server) == [])
        assert server.post("/models/unload", {"model": "null"}).status_code == 404


def test_many_who_wait_for_one_load_are_all_answered():
    with running("null", "--keep-alive", "0") as server:
        statuses = []
        threads = [threading.Thread(target=lambda: statuses.append(ask(server, "null").status_code)) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == [200] * 16
        server.wait_until(lambda: names(server) == [])
