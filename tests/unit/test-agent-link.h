/* SPDX-License-Identifier: MIT */
/* What the tests of src/volume/agent_link.h share: the link, calls over it, and that no
 * descriptor is left. */
#ifndef DVOLFS_TEST_AGENT_LINK_H
#define DVOLFS_TEST_AGENT_LINK_H

#include "test-agent.h"

#include "volume/agent_link.h"

#include <dirent.h>
#include <time.h>

#define PATIENCE_S 60
#define SLOTS 1023 /* calls that may be under way */

static struct agent_link *at;
static unsigned fds_before;

static inline time_t now_s(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec;
}

static inline unsigned count_fds(void)
{
    unsigned count = 0;
    DIR *dir = opendir("/proc/self/fd");
    assert_non_null(dir);
    while (readdir(dir))
        count++;
    (void)closedir(dir);
    return count;
}

/* Of a thread: raises the cancel it is given. */
static inline void *raise_it(void *arg)
{
    cancel_raise(arg);
    return NULL;
}

/* A reply that is no error. */
static inline struct agent_reply reply_to(struct agent_request request)
{
    struct agent_reply reply = AGENT_REPLY_INIT;
    assert_int_equal(agent_link_call(at, &request, NULL, &reply), 0);
    assert_true(reply.result >= 0);
    return reply;
}

static inline int call(struct agent_request request)
{
    struct agent_reply reply cleanup_agent_reply = AGENT_REPLY_INIT;
    int r = agent_link_call(at, &request, NULL, &reply);
    return r < 0 ? r : reply.result;
}

#endif
