/* SPDX-License-Identifier: MIT */
#include "base/cancel.h"

#include <stdatomic.h>
#include <stdint.h>
#include <sys/eventfd.h>

struct cancel {
    atomic_int refs;
    atomic_bool raised;
    int fd;
    pthread_mutex_t lock; /* hooks; held while they run, so that removal waits for them */
    struct cancel_hook *hooks;
};

struct cancel *cancel_new(void)
{
    struct cancel *cancel = calloc(1, sizeof(*cancel));
    if (!cancel)
        return NULL;
    cancel->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (cancel->fd < 0) {
        cleanup_free_impl(&cancel);
        return NULL;
    }
    atomic_init(&cancel->refs, 1);
    atomic_init(&cancel->raised, false);
    (void)pthread_mutex_init(&cancel->lock, NULL);
    return cancel;
}

struct cancel *cancel_ref(struct cancel *cancel)
{
    if (cancel)
        atomic_fetch_add(&cancel->refs, 1);
    return cancel;
}

void cancel_unref(struct cancel *cancel)
{
    if (!cancel || atomic_fetch_sub(&cancel->refs, 1) != 1)
        return;
    (void)close(cancel->fd);
    (void)pthread_mutex_destroy(&cancel->lock);
    free(cancel);
}

void cancel_raise(struct cancel *cancel)
{
    scoped_lock(&cancel->lock);
    if (atomic_exchange(&cancel->raised, true))
        return;
    uint64_t one = 1;
    /* An eventfd that was never written to takes a 1 without blocking. */
    ssize_t written = write(cancel->fd, &one, sizeof(one));
    (void)written;
    for (struct cancel_hook *hook = cancel->hooks; hook; hook = hook->next)
        hook->run(hook->data);
}

bool cancel_is_raised(const struct cancel *cancel)
{
    return cancel && atomic_load(&cancel->raised);
}

int cancel_fd(const struct cancel *cancel)
{
    return cancel ? cancel->fd : -1;
}

void cancel_hook_add(struct cancel *cancel, struct cancel_hook *hook)
{
    if (!cancel)
        return;
    scoped_lock(&cancel->lock);
    hook->next = cancel->hooks;
    cancel->hooks = hook;
    if (atomic_load(&cancel->raised))
        hook->run(hook->data);
}

void cancel_hook_remove(struct cancel *cancel, struct cancel_hook *hook)
{
    if (!cancel)
        return;
    scoped_lock(&cancel->lock);
    for (struct cancel_hook **at = &cancel->hooks; *at; at = &(*at)->next) {
        if (*at == hook) {
            *at = hook->next;
            return;
        }
    }
}
