from tests.integration.training.test_transient_faults import *
from tests.integration.training.conftest import *
from tests.conftest import *
def test_x(hook, ground, control):
    hook.workspace
    control.clear()
    print("M", hook.metrics(ground.ended)); print([(o["method"],o["path"].split("workspaces/")[-1],o["status"]) for o in control.requests()])
    control.fault(path="/metric/", kind="status", status=429, calls=1000)
    print([hook._call])
    try: print("M", AzureMLHook(patience=NO_PATIENCE).metrics(ground.ended))
    except Exception as e: print("RAISED", e)
    print([(o["method"],o["path"].split("workspaces/")[-1],o["status"]) for o in control.requests()])
    assert 0
