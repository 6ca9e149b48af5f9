"""The harness itself: does the guard name who grew, does the table tell what it has not measured, are plots whole?

    test_harness.py PROBE"""
import contextlib
import io
import json
import pathlib
import shutil
import sys
import tempfile
import types
import unittest
import xml.etree.ElementTree as xml

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import bench  # noqa: E402
import check  # noqa: E402
import machine  # noqa: E402
import plot  # noqa: E402
import targets  # noqa: E402

PROBE = None
BUDGET = {"total": 1000, "functions": {"great": 500, "middle": 100, "small": 20}}
CALLGRIND = """version: 1
events: Ir
fn=(1) great
10 70
cfn=(2) middle
calls=3 20
11 30
+1 5
fn=(2)
20 30
fn=(3) great'2
1 1
"""


def complaints(growth, same_compiler=True):
    functions = {name: cost * growth.get(name, 1) for name, cost in BUDGET["functions"].items()}
    total = 380 * growth.get("rest", 1) + sum(functions.values())
    return "\n".join(check.compare("work", BUDGET, total, functions, same_compiler))


class Guard(unittest.TestCase):
    def test_nothing_is_said_within_the_room(self):
        self.assertEqual(complaints({}), "")
        self.assertEqual(complaints({"great": 1.09, "middle": 1.09}), "")
        self.assertEqual(complaints({"small": 2}), "", "small functions count by the total only")
        self.assertEqual(complaints({"great": 0.1}), "", "less is no offence")

    def test_a_function_that_grew_is_named(self):
        self.assertIn("work: great: 555 instructions a transaction, budget 500 (+11.0 %)", complaints({"great": 1.11}))
        self.assertIn("middle", complaints({"middle": 1.11}))
        self.assertNotIn("great", complaints({"middle": 1.11}))

    def test_a_total_that_grew_is_said_with_who_grew(self):
        said = complaints({"rest": 1.2, "small": 4})
        self.assertIn("work: 1136 instructions a transaction, budget 1000", said)
        self.assertIn("grew: small: 20 -> 80", said)

    def test_another_compiler_has_twice_the_room_of_the_total(self):
        self.assertEqual(complaints({"great": 1.35}, same_compiler=False), "")
        self.assertIn("1205", complaints({"great": 1.41}, same_compiler=False))

    def test_costs_are_read_by_function(self):
        with tempfile.NamedTemporaryFile("w") as out:
            out.write(CALLGRIND)
            out.flush()
            self.assertEqual(check.functions_of(out.name), {"great": 76, "middle": 30})

    def test_it_fails_by_what_it_counts(self):
        """The real probe under callgrind, short, against a budget that one function exceeds."""
        if not shutil.which("valgrind"):
            self.skipTest("valgrind is not installed")
        with tempfile.TemporaryDirectory() as directory:
            kept = check.BUDGET, check.WORKLOADS, check.backlog
            check.BUDGET = pathlib.Path(directory) / "budget.json"
            check.WORKLOADS = {"short": (300, {"flight": 64, "virtual-step-ns": 20000})}
            check.backlog = lambda probe: []  # bench-check runs it
            try:
                with contextlib.redirect_stdout(io.StringIO()) as out:
                    self.assertEqual(check.main([PROBE]), 1)
                self.assertIn("short: has no budget", out.getvalue())
                with contextlib.redirect_stdout(io.StringIO()):
                    self.assertEqual(check.main([PROBE, "--update"]), 0)
                first, second = ({name: round(cost * 300) for name, cost in check.count(PROBE, "short", directory)[1].items()}
                                 for _ in range(2))
                self.assertEqual(first, second, "two runs of one build count the same to the instruction")
                budget = json.loads(check.BUDGET.read_text())
                known = budget["workloads"]["short"]
                culprit = max(known["functions"], key=known["functions"].get)
                known["functions"][culprit] *= 0.85
                check.BUDGET.write_text(json.dumps(budget))
                with contextlib.redirect_stdout(io.StringIO()) as out:
                    self.assertEqual(check.main([PROBE]), 1)
                self.assertIn(f"short: {culprit}: ", out.getvalue())
            finally:
                check.BUDGET, check.WORKLOADS, check.backlog = kept


class Table(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.kept = bench.OUT, targets.GROUPS
        bench.OUT = pathlib.Path(self.directory.name) / "out"
        bench.missing.clear()

    def tearDown(self):
        bench.OUT, targets.GROUPS = self.kept
        self.directory.cleanup()
        bench.missing.clear()

    def measure(self, rows, **groups):
        targets.GROUPS = {**targets.GROUPS, **groups}
        options = types.SimpleNamespace(rows=rows, cluster=True, repeat=2)
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            targets.targets(options)
        return out.getvalue(), err.getvalue()

    def test_met_is_by_what_was_measured_not_by_what_is_shown(self):
        self.assertTrue(targets.Row("M1", "<= 3", "3.00", reach=1.0).met)
        self.assertEqual(targets.Row("M1", "<= 3", "3.00", reach=3.0000001 / 3).cells()[-1], "short")
        self.assertEqual(targets.Row("M1", "<= 3", "-").cells()[-1], "not measured")

    def test_a_group_that_fails_is_said_and_counts(self):
        def fails(options):
            raise AssertionError("no leader")
        out, err = self.measure("S2", S2=(fails, ("S2",)))
        self.assertIn("S2: AssertionError: no leader", err)
        self.assertEqual(bench.missing, ["S2"])

    def test_a_row_of_an_earlier_commit_says_so(self):
        first = targets.Row("S1", "<= 5 ms", "1 ms", reach=0.2)
        second = targets.Row("S2 random", ">= 70 %", "80 %", reach=0.9)
        self.measure("S2", S2=(lambda options: ([second], {}), ("S2",)))
        path = bench.OUT / "targets.json"
        kept = json.loads(path.read_text())
        kept["S2"]["machine"]["commit"] = "0ddba11"
        path.write_text(json.dumps(kept))
        out, _ = self.measure("M2", M2=(lambda options: ([first], {}), ("M2",)))
        shown = {line.split("|")[1].strip(): line for line in (bench.OUT / "targets.md").read_text().splitlines()}
        self.assertIn("| met, at 0ddba11 |", shown["S2 random"])
        self.assertIn("| met |", shown["S1"])
        self.assertIn("met, at 0ddba11", out)
        self.assertIn("targets.svg", [path.name for path in bench.OUT.iterdir()])

    def test_repeat_is_heard(self):
        counted = []
        self.measure("S2", S2=(lambda options: (targets.runs(lambda: counted.append(1)), {}), ("S2",)))
        self.assertEqual(len(counted), 2)

    def test_a_probe_that_ends_badly_is_missing(self):
        with contextlib.redirect_stderr(io.StringIO()):
            self.assertIsNone(bench.run_probe(["false"], "it"))
        self.assertEqual(bench.missing, ["it"])

    def test_the_commit_is_this_trees(self):
        self.assertEqual(machine.describe()["commit"], machine.commit())


class Lines(unittest.TestCase):
    def test_slopes(self):
        self.assertAlmostEqual(bench.slope([(1, 5.0), (10, 5.0), (100, 5.0)]), 0)
        self.assertAlmostEqual(bench.slope([(1, 90.0), (2, 100.0), (4, 110.0)]), 0.1)

    def test_plots_are_whole(self):
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory) / "plot.svg"
            plot.lines(path, "a < b", "x", "y", {"one": [(1, 2), (10, 3), (100, None)], "two & three": [(1, 1)]}, True, True)
            root = xml.parse(path).getroot()
            curves = root.findall("{http://www.w3.org/2000/svg}polyline")
            self.assertEqual([len(curve.get("points").split()) for curve in curves], [2, 1])
            plot.bars(path, "bars", "x", [("met", 0.5), ("short", 2.0), ("none", None)])
            bars = xml.parse(path).getroot().findall("{http://www.w3.org/2000/svg}rect")
            self.assertEqual([bar.get("fill") for bar in bars[1:]], [plot.COLORS[2], plot.COLORS[1]])


if __name__ == "__main__":
    PROBE = sys.argv.pop(1)
    unittest.main()
