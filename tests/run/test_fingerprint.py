"""Fingerprints change with code, defaults and closed-over settings, and with nothing else."""

import functools

import pubswap_jax as ps
from pubswap_jax.run.fingerprint import name_of, of_function, of_functions, of_rows


def one(x, k=1):
    return x + k


def made(k):
    def inner(x):
        return x + k

    return inner


class Callable:
    def __call__(self, x):
        return x


def test_functions():
    assert of_function(one) == of_function(one) != of_function(made)
    assert of_function(made(1)) == of_function(made(1)) != of_function(made(2))
    assert of_function(functools.partial(one, k=2)) != of_function(functools.partial(one, k=3))
    assert of_function(Callable()) == of_function(Callable()) != of_function(one)
    assert [name_of(thing) for thing in (one, functools.partial(one), Callable())] == ["one", "one", "Callable"]


def test_a_function_without_a_file_is_known_by_its_code():
    codes = [exec_of("def f(x): return x + 1"), exec_of("def f(x): return x + 1"), exec_of("def f(x): return x + 2")]
    assert of_function(codes[0]) == of_function(codes[1]) != of_function(codes[2])


def exec_of(source):
    names = {}
    exec(source, names)
    return names["f"]


def test_a_function_that_names_itself():
    def again(x):
        return again(x - 1) if x else 0

    assert len(of_function(again)) == 64


def test_a_function_that_counts_its_calls_stays_the_same():
    calls = []

    def counting(x):
        calls.append(x)

    before = of_function(counting)
    counting(1)
    assert of_function(counting) == before


def test_aggregators_and_rows():
    assert of_functions(ps.trimmed_mean(1)) == of_functions(ps.trimmed_mean(1))
    assert len({of_functions(rule) for rule in (ps.trimmed_mean(1), ps.trimmed_mean(2), ps.median(), ps.mean())}) == 4
    assert of_rows([{"a": 1}]) == of_rows([{"a": 1}]) != of_rows([{"a": 2}])
