/* SPDX-License-Identifier: MIT */
#include "fs/ops_call.h"

#include <string.h>

bool call_init(struct call *call, fuse_req_t req, fuse_ino_t ino, void (*run)(struct call *call))
{
    *call = (struct call){.req = req, .front = fuse_req_userdata(req), .run = run};
    call->request.thread = fuse_req_ctx(req)->pid;
    call->node = inode_table_get(call->front->inodes, ino);
    if (!call->node)
        (void)fuse_reply_err(req, ESTALE);
    return call->node;
}

void call_done(struct call *call)
{
    node_unref(call->node);
    free(call->name);
    free(call->new_name);
}

static void raise_cancel(void *data)
{
    cancel_raise(data);
}

static void on_interrupt(fuse_req_t req, void *data)
{
    (void)req;
    cancel_raise(data);
}

/* In a worker. */
static void run_waiting(void *data)
{
    struct call *call = data;
    struct cancel *cancel = call->request.cancel;
    struct front *front = call->front;
    fuse_req_interrupt_func(call->req, on_interrupt, cancel);
    call->stop_hook = (struct cancel_hook){.run = raise_cancel, .data = cancel};
    cancel_hook_add(front->stop, &call->stop_hook);
    call->run(call);
    cancel_hook_remove(front->stop, &call->stop_hook);
    cancel_unref(cancel);
    call_done(call);
    free(call);
}

void call_quiet(struct call *call)
{
    if (call->request.cancel)
        fuse_req_interrupt_func(call->req, NULL, NULL);
}

void call_fail(struct call *call, int r)
{
    call_quiet(call);
    (void)fuse_reply_err(call->req, r < 0 ? -r : 0);
}

void call_dispatch_waiting(struct call *call)
{
    struct call *copy = malloc(sizeof(*copy));
    struct cancel *cancel = cancel_new();
    int r = -ENOMEM;
    if (copy && cancel) {
        *copy = *call;
        copy->request.cancel = cancel;
        r = workers_submit(call->front->workers, run_waiting, copy);
    }
    if (r < 0) {
        cancel_unref(cancel);
        free(copy);
        call_fail(call, r);
        call_done(call);
    }
}

void call_dispatch(struct call *call, unsigned operation)
{
    if (node_may_wait(call->node, operation)) {
        call_dispatch_waiting(call);
        return;
    }
    call->run(call);
    call_done(call);
}

int call_entry(struct call *call, struct node *child, double name_seconds,
               struct fuse_entry_param *ret_entry)
{
    struct node *known cleanup_node = inode_table_lookup(call->front->inodes, child);
    if (!known)
        return -ENOMEM;
    struct fuse_entry_param entry = {.ino = known->ino, .entry_timeout = name_seconds};
    /* With a cancel this is a worker, which may wait. */
    int r = call->request.cancel
                ? node_getattr(known, &call->request, &entry.attr, &entry.attr_timeout)
                : node_peek(known, &call->request, &entry.attr, &entry.attr_timeout);
    if (r < 0) {
        inode_table_forget(call->front->inodes, known->ino, 1);
        return r;
    }
    *ret_entry = entry;
    return 0;
}
