/* SPDX-License-Identifier: MIT */
/*
 * Scope-bound release of resources, by the compiler's cleanup attribute.
 *
 * A local declared with one of these is released at the end of its scope.
 * To hand the value out instead, take() it: the local is emptied and its
 * release does nothing.  All releases accept the empty value (NULL, -1) and
 * leave errno alone.
 */
#ifndef DVOLFS_BASE_CLEANUP_H
#define DVOLFS_BASE_CLEANUP_H

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#define must_check __attribute__((warn_unused_result))
#define printf_like(fmt, args) __attribute__((format(printf, fmt, args)))
#define unused_arg __attribute__((unused))

/* Defines cleanup_NAME(T**) for use as  __attribute__((cleanup(...))). */
#define DEFINE_CLEANUP(name, type, release)                                                        \
    static inline void name(type **p)                                                              \
    {                                                                                              \
        if (*p)                                                                                    \
            release(*p);                                                                           \
    }

static inline void cleanup_free_impl(void *p)
{
    int saved = errno;
    free(*(void **)p);
    errno = saved;
}

static inline void cleanup_close_impl(const int *fd)
{
    int saved = errno;
    if (*fd >= 0)
        (void)close(*fd);
    errno = saved;
}

static inline void cleanup_unlock_impl(pthread_mutex_t **lock)
{
    if (*lock)
        (void)pthread_mutex_unlock(*lock);
}

static inline pthread_mutex_t *cleanup_lock_impl(pthread_mutex_t *lock)
{
    (void)pthread_mutex_lock(lock);
    return lock;
}

#define cleanup(fn) __attribute__((cleanup(fn)))
#define cleanup_free cleanup(cleanup_free_impl)
#define cleanup_close cleanup(cleanup_close_impl)

#define CLEANUP_PASTE2(a, b) a##b
#define CLEANUP_PASTE(a, b) CLEANUP_PASTE2(a, b)

/* Holds `lock` from here to the end of the scope. */
#define scoped_lock(lock)                                                                          \
    pthread_mutex_t *CLEANUP_PASTE(scoped_lock_, __LINE__) cleanup(cleanup_unlock_impl)            \
        unused_arg = cleanup_lock_impl(lock)

/* The pointer's value; the pointer itself becomes NULL. */
#define take(p)                                                                                    \
    __extension__({                                                                                \
        __typeof__(p) take_value = (p);                                                            \
        (p) = NULL;                                                                                \
        take_value;                                                                                \
    })

/* The same for a file descriptor; the variable becomes -1. */
static inline int take_fd(int *fd)
{
    int value = *fd;
    *fd = -1;
    return value;
}

#endif
