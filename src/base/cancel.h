/* SPDX-License-Identifier: MIT */
/*
 * A request to give up, from one thread to others.
 *
 * Work that can wait takes a `struct cancel *` (NULL: never cancelled) and
 * returns -EINTR soon after it is raised.  It can be waited for in three ways:
 * by asking cancel_is_raised() now and then, by polling cancel_fd(), or by a
 * hook that wakes a sleeping thread.  Raised once, it stays raised.
 * All functions may be called from any thread.
 */
#ifndef DVOLFS_BASE_CANCEL_H
#define DVOLFS_BASE_CANCEL_H

#include "base/cleanup.h"

#include <stdbool.h>

struct cancel;

/* A cancel that is not raised; NULL with errno set (ENOMEM, EMFILE, ...). */
must_check struct cancel *cancel_new(void);

/* Another reference to the same cancel; never fails. */
struct cancel *cancel_ref(struct cancel *cancel);

/* Drops a reference; the last one frees it.  NULL is allowed. */
void cancel_unref(struct cancel *cancel);
DEFINE_CLEANUP(cleanup_cancel_impl, struct cancel, cancel_unref)
#define cleanup_cancel cleanup(cleanup_cancel_impl)

/*
 * Raises it: the descriptor becomes readable and the hooks run, each once, in
 * this thread.  Idempotent.  Does not block beyond the hooks.
 */
void cancel_raise(struct cancel *cancel);

/* Whether it was raised; false for NULL. */
bool cancel_is_raised(const struct cancel *cancel);

/* A descriptor that polls readable once raised; -1 for NULL.  Owned by cancel. */
int cancel_fd(const struct cancel *cancel);

/*
 * A hook, part of the caller's own structure or stack.  cancel_hook_add calls
 * it at once where the cancel is raised already.  After cancel_hook_remove has
 * returned the function is not running and will not run.  The function must not
 * add or remove hooks, and may take a lock only if nobody holds that lock around
 * these two calls.
 */
struct cancel_hook {
    void (*run)(void *data);
    void *data;
    struct cancel_hook *next;
};
void cancel_hook_add(struct cancel *cancel, struct cancel_hook *hook);
void cancel_hook_remove(struct cancel *cancel, struct cancel_hook *hook);

#endif
