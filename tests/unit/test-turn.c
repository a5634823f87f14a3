/* SPDX-License-Identifier: MIT */
#include "check.h"

#include "base/turn.h"

#include <stdatomic.h>

static struct turn turn;
static atomic_int inside, rounds;

static void *take_turns(void *data)
{
    (void)data;
    for (int i = 0; i < 200; i++) {
        if (turn_take(&turn, NULL) != 0 || atomic_fetch_add(&inside, 1) != 0)
            return &inside; /* two at a time */
        rounds++;
        atomic_fetch_sub(&inside, 1);
        turn_give_back(&turn);
    }
    return NULL;
}

static void one_at_a_time(void **state)
{
    (void)state;
    pthread_t threads[8];
    turn_init(&turn);
    rounds = 0;
    for (size_t i = 0; i < 8; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, take_turns, NULL), 0);
    for (size_t i = 0; i < 8; i++) {
        void *failure;
        assert_int_equal(pthread_join(threads[i], &failure), 0);
        assert_null(failure);
    }
    assert_int_equal(rounds, 8 * 200);
    turn_done(&turn);
}

static void *wait_for_it(void *data)
{
    return (void *)(intptr_t)turn_take(&turn, data);
}

static void who_waits_can_give_up(void **state)
{
    (void)state;
    struct cancel *cancel cleanup_cancel = cancel_new();
    turn_init(&turn);
    assert_int_equal(turn_take(&turn, cancel), 0);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, wait_for_it, cancel), 0);
    cancel_raise(cancel);
    void *result;
    assert_int_equal(pthread_join(thread, &result), 0);
    assert_int_equal((intptr_t)result, -EINTR);
    turn_give_back(&turn);
    assert_int_equal(turn_take(&turn, NULL), 0);
    turn_give_back(&turn);
    turn_done(&turn);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_at_a_time),
        cmocka_unit_test(who_waits_can_give_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
