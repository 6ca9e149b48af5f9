"""Can the checks of crash.py fail? After a load without any crash they pass; then a transfer, a deposit and a different state that no
answer of the load accounts for are made, one after the other, and each must be found by the check that is there for it."""
from diverge import WRONG, WRONG_ACCOUNT
from lib import cluster as c
from lib import scenario
from lib.process import wait_until
from crash import check_state


def found(cluster, results, words):
    try:
        check_state(cluster, results)
    except AssertionError as error:
        assert words in str(error), f"{words!r} expected: {error}"
        print(f"found: {str(error)[:100]}", flush=True)
        return
    raise SystemExit(f"not found: {words}")


def change(cluster, method, **message):
    answer = cluster.bank(method, {key: str(value) for key, value in message.items()})
    assert answer.status == 200, answer


def crash_checks(cluster):
    cluster.node_programs = {WRONG: c.DIVERGING}  # right but for one account
    cluster.start(nodes=3, gateways=2, node_keys={"durability": "disk", **c.CALM})
    loads = [cluster.start_load(gateway=i, count=500, connections=4, first_account=1000 + 100000 * i) for i in range(2)]
    results = [load.wait() for load in loads]
    check_state(cluster, results)
    rich, other = sorted(results[0]["balances"], key=results[0]["balances"].get)[:-3:-1]
    change(cluster, "Transfer", **{"from": rich, "to": other, "amount": 1})
    found(cluster, results, "was acknowledged")
    change(cluster, "Transfer", **{"from": other, "to": rich, "amount": 1})
    check_state(cluster, results)
    change(cluster, "Deposit", account=WRONG_ACCOUNT + 1, amount=5)
    found(cluster, results, "were deposited")
    change(cluster, "Withdraw", account=WRONG_ACCOUNT + 1, amount=5)
    check_state(cluster, results)
    change(cluster, "Deposit", account=WRONG_ACCOUNT, amount=5)
    wait_until(lambda: cluster.status(WRONG)["role"] == "quarantined", 60, "the wrong node is found")
    results[0]["deposited"] += 5
    found(cluster, results, "quarantined")


if __name__ == "__main__":
    scenario.main(crash_checks, programs=(c.NODE, c.GATEWAY, c.LOAD, c.DIVERGING))
