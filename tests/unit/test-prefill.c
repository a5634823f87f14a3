/* SPDX-License-Identifier: MIT */
/* Who may put contents into the kernel's cache, and when. */
#include "fs/prefill.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>

#include <cmocka.h>

static void one_file_is_stored_by_one(void **state)
{
    (void)state;
    struct prefills *prefills = prefills_new();
    struct prefill *first = prefill_begin(prefills, 1, true);
    struct prefill *other = prefill_begin(prefills, 2, true);
    assert_non_null(first);
    assert_non_null(other);
    assert_null(prefill_begin(prefills, 1, false));
    assert_true(prefill_end(prefills, other));
    assert_false(prefill_end(prefills, first)); /* it was opened without meanwhile */
    first = prefill_begin(prefills, 1, false);
    assert_non_null(first);
    assert_true(prefill_end(prefills, first));
    prefills_free(prefills);
}

static void an_opening_without_is_noticed(void **state)
{
    (void)state;
    struct prefills *prefills = prefills_new();
    prefill_none(prefills, 1);
    struct prefill *prefill = prefill_begin(prefills, 1, true);
    prefill_none(prefills, 2);
    assert_true(prefill_end(prefills, prefill));
    prefill = prefill_begin(prefills, 1, true);
    prefill_none(prefills, 1);
    assert_false(prefill_end(prefills, prefill));
    prefills_free(prefills);
}

static void only_a_few_at_once(void **state)
{
    (void)state;
    struct prefills *prefills = prefills_new();
    struct prefill *begun[64];
    unsigned count = 0;
    while (count < 64 && (begun[count] = prefill_begin(prefills, count + 1, true)))
        count++;
    assert_in_range(count, 2, 16);
    assert_null(prefill_begin(prefills, 1, true)); /* too many: without waiting */
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(prefill_end(prefills, begun[i]), i > 0);
    prefills_free(prefills);
}

/* How many more may begin now. */
static unsigned room(struct prefills *prefills)
{
    struct prefill *begun[64];
    unsigned count = 0;
    while (count < 64 && (begun[count] = prefill_begin(prefills, 100 + count, true)))
        count++;
    for (unsigned i = 0; i < count; i++)
        (void)!prefill_end(prefills, begun[i]);
    return count;
}

struct second {
    struct prefills *prefills;
    atomic_bool first_ends, began_too_early, was_refused, is_done;
};

static void *wait_and_store(void *data)
{
    struct second *second = data;
    struct prefill *prefill = prefill_begin(second->prefills, 1, true);
    atomic_store(&second->began_too_early, prefill && !atomic_load(&second->first_ends));
    atomic_store(&second->was_refused, !prefill);
    if (prefill)
        (void)!prefill_end(second->prefills, prefill);
    atomic_store(&second->is_done, true);
    return NULL;
}

/* False: it came just when room() had taken all places, and was refused. */
static bool try_another(void)
{
    struct second second = {.prefills = prefills_new()};
    struct prefill *first = prefill_begin(second.prefills, 1, true);
    unsigned before = room(second.prefills);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, wait_and_store, &second), 0);
    while (room(second.prefills) == before && !atomic_load(&second.is_done))
        (void)sched_yield();
    atomic_store(&second.first_ends, true);
    bool stands = prefill_end(second.prefills, first);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_false(second.began_too_early);
    assert_int_equal(stands, !second.was_refused);
    assert_int_equal(room(second.prefills), before + 1);
    prefills_free(second.prefills);
    return !second.was_refused;
}

static void another_waits_and_counts(void **state)
{
    (void)state;
    unsigned tries = 1;
    while (!try_another() && tries < 1000)
        tries++;
    assert_true(tries < 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_file_is_stored_by_one),
        cmocka_unit_test(an_opening_without_is_noticed),
        cmocka_unit_test(only_a_few_at_once),
        cmocka_unit_test(another_waits_and_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
