/* SPDX-License-Identifier: MIT */
#include "volume/agent_here.h"

#include "volume/agent_link.h"
#include "volume/ids.h"
#include "volume/local.h"

static int ask_for_root(struct agent_link *link, struct cancel *cancel)
{
    struct agent_reply reply cleanup_agent_reply = AGENT_REPLY_INIT;
    struct agent_request request = {.type = AGENT_ROOT};
    int r = agent_link_call(link, &request, cancel, &reply);
    return r < 0 ? r : take_fd(&reply.fd);
}

/* What a record, which is the only one, tells. */
static bool read_stat(const struct buf *record, struct file_stat *ret)
{
    size_t position = 0;
    struct file file;
    if (file_read(buf_string(record), record->len, &position, &file) <= 0)
        return false;
    *ret = file.stat;
    return true;
}

/* Whether the agent means the same directory: it has told nothing else if it is ours. */
static bool is_agents(struct contents *here, struct agent_link *link, struct cancel *cancel)
{
    struct agent_reply reply cleanup_agent_reply = AGENT_REPLY_INIT;
    struct agent_request request = {.type = AGENT_STAT, .path = ""};
    struct file_stat seen, told;
    struct buf record cleanup_buf;
    buf_init(&record, FILE_MAX_XATTR_BYTES);
    if (agent_link_call(link, &request, cancel, &reply) < 0 || reply.result < 0 ||
        contents_stat(here, "", 0, cancel, &record) < 0)
        return false;
    return read_stat(&record, &seen) && read_stat(&reply.payload, &told) && seen.dev == told.dev &&
           file_identity(&seen) == file_identity(&told);
}

struct contents *agent_here(struct agent_link *link, struct cancel *cancel)
{
    int pid = agent_link_peer(link);
    if (pid <= 0 || !ids_may_read_all() || !ids_are_own(pid) || !ids_are_own(getpid()))
        return NULL;
    cleanup_close int root = ask_for_root(link, cancel);
    if (root < 0 || !inspect_is_of_this_machine(root)) /* so the agent says, too */
        return NULL;
    struct contents *here cleanup_contents = local_contents_within(take_fd(&root), pid);
    return here && is_agents(here, link, cancel) ? take(here) : NULL;
}
