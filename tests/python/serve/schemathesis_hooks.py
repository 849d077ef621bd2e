"""What schemathesis loads: most requests should come as far as the model."""

import schemathesis


@schemathesis.hook
def before_call(context, case, kwargs):
    if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
        case.body["model"] = "null"
    if "{id}" in case.operation.path:
        case.path_parameters["id"] = "null"
