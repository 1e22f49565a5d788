/* A mock engine: answers like llama-server, as fast as one core can. One thread, epoll.
 *
 *     mock          prints its port, then serves 127.0.0.1 until standard input ends
 *
 * The request says what is wanted: "stream":true, "max_tokens":N pieces of an answer, "top_k":M milliseconds between
 * two of them (0: as fast as the socket takes them). A plain answer comes at once. A GET is answered with a list of
 * one model, "mock".
 */
#include "http.h"

#define REQUEST_BYTES 65536
#define TICK_MS 1

typedef struct Connection {
    int fd, want_out;
    char in[REQUEST_BYTES + 1];
    size_t in_bytes;
    const char *out; /* what is being written */
    size_t out_bytes;
    int streaming;
    long pieces_left;
    int64_t gap_ns, due_ns;
    struct Connection *previous, *next; /* of those that wait for their time */
    int listed;
} Connection;

static const char PLAIN_BODY[] =
    "{\"choices\":[{\"finish_reason\":\"stop\",\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":"
    "\"The quick brown fox jumps over the lazy dog.\"}}],\"created\":1700000000,\"model\":\"mock\",\"object\":"
    "\"chat.completion\",\"usage\":{\"completion_tokens\":10,\"prompt_tokens\":20,\"total_tokens\":30},\"id\":"
    "\"chatcmpl-mock\",\"timings\":{\"cache_n\":0,\"prompt_n\":20,\"prompt_ms\":1.0,\"predicted_n\":10,\"predicted_ms\":9.0}}";
static const char HEAD[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nServer: mock\r\n\r\n";
static const char PIECE_BODY[] =
    "data: {\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"content\":\" word\"}}],\"created\":1700000000,"
    "\"id\":\"chatcmpl-mock\",\"model\":\"mock\",\"object\":\"chat.completion.chunk\"}\n\n";
static const char LAST_BODY[] =
    "data: {\"choices\":[{\"finish_reason\":\"stop\",\"index\":0,\"delta\":{}}],\"created\":1700000000,\"id\":"
    "\"chatcmpl-mock\",\"model\":\"mock\",\"object\":\"chat.completion.chunk\",\"timings\":{\"cache_n\":0,\"prompt_n\":20,"
    "\"prompt_ms\":1.0,\"predicted_n\":10,\"predicted_ms\":9.0}}\n\ndata: [DONE]\n\n";

static const char MODELS_BODY[] = "{\"object\":\"list\",\"data\":[{\"id\":\"mock\",\"object\":\"model\"}]}";
static char plain[2048], models[512], piece[1024], last[1024];
static int epoll;
static Connection *waiting;

static void list(Connection *c) {
    if (c->listed) return;
    c->previous = NULL;
    c->next = waiting;
    if (waiting) waiting->previous = c;
    waiting = c;
    c->listed = 1;
}

static void unlist(Connection *c) {
    if (!c->listed) return;
    if (c->previous) c->previous->next = c->next;
    else waiting = c->next;
    if (c->next) c->next->previous = c->previous;
    c->listed = 0;
}

static void watch(Connection *c, int out) {
    if (c->want_out == out) return;
    c->want_out = out;
    struct epoll_event event = {.events = EPOLLIN | (out ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event);
}

static void drop(Connection *c) {
    unlist(c);
    close(c->fd);
    c->fd = -1; /* freed when the events of this round are through */
}

/* Write what is to be written; 1 when all of it went out, 0 to wait, -1 when the connection is gone. */
static int flush(Connection *c) {
    while (c->out_bytes) {
        ssize_t sent = send(c->fd, c->out, c->out_bytes, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN) return -1;
            watch(c, 1);
            return 0;
        }
        c->out += sent;
        c->out_bytes -= (size_t)sent;
    }
    watch(c, 0);
    return 1;
}

static int say(Connection *c, const char *text) {
    c->out = text;
    c->out_bytes = strlen(text);
    return flush(c);
}

static int go_on(Connection *c);

static int number(const char *body, const char *name, int otherwise) {
    const char *found = strstr(body, name);
    return found ? atoi(found + strlen(name)) : otherwise;
}

/* Answer the request at the beginning of the buffer, if it is there in full. */
static int request(Connection *c) {
    c->in[c->in_bytes] = 0;
    char *end = strstr(c->in, "\r\n\r\n");
    if (!end) return c->in_bytes < REQUEST_BYTES ? 0 : -1;
    *end = 0;
    int is_get = strncmp(c->in, "GET ", 4) == 0;
    const char *length = header(c->in, "content-length");
    size_t whole = (size_t)(end + 4 - c->in) + (length ? strtoul(length, NULL, 10) : 0);
    if (whole > REQUEST_BYTES) return -1;
    if (c->in_bytes < whole) {
        *end = '\r';
        return 0;
    }
    char saved = c->in[whole];
    c->in[whole] = 0;
    const char *body = end + 4;
    int stream = strstr(body, "\"stream\":true") != NULL;
    c->pieces_left = number(body, "\"max_tokens\":", 10);
    c->gap_ns = (int64_t)number(body, "\"top_k\":", 0) * 1000000;
    c->in[whole] = saved;
    memmove(c->in, c->in + whole, c->in_bytes - whole);
    c->in_bytes -= whole;
    if (is_get) return say(c, models);
    if (!stream) return say(c, plain);
    c->streaming = 1;
    c->due_ns = now_ns();
    int done = say(c, HEAD);
    return done == 1 ? go_on(c) : done;
}

/* The pieces that are due. */
static int go_on(Connection *c) {
    while (c->streaming && !c->out_bytes) {
        if (c->gap_ns && now_ns() < c->due_ns) {
            list(c);
            return 0;
        }
        unlist(c);
        int done;
        if (c->pieces_left-- > 0) {
            c->due_ns += c->gap_ns;
            done = say(c, piece);
        } else {
            c->streaming = 0;
            done = say(c, last);
        }
        if (done != 1) return done;
    }
    return c->in_bytes ? request(c) : 1;
}

static void made(char *to, size_t size, const char *body) {
    snprintf(to, size, "%zx\r\n%s\r\n", strlen(body), body);
}

int main(void) {
    many_files();
    snprintf(plain, sizeof plain, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
             strlen(PLAIN_BODY), PLAIN_BODY);
    snprintf(models, sizeof models, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
             strlen(MODELS_BODY), MODELS_BODY);
    made(piece, sizeof piece, PIECE_BODY);
    made(last, sizeof last, LAST_BODY);
    strcat(last, "0\r\n\r\n");

    int server = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in address = loopback(0);
    socklen_t size = sizeof address;
    setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(server, (struct sockaddr *)&address, size) || listen(server, 4096)) fail("listen");
    fcntl(server, F_SETFL, O_NONBLOCK);
    getsockname(server, (struct sockaddr *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);

    epoll = epoll_create1(0);
    static int server_mark, stdin_mark;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &server_mark};
    epoll_ctl(epoll, EPOLL_CTL_ADD, server, &event);
    event.data.ptr = &stdin_mark;
    epoll_ctl(epoll, EPOLL_CTL_ADD, STDIN_FILENO, &event);
    struct epoll_event events[EVENTS];
    for (;;) {
        int count = epoll_wait(epoll, events, EVENTS, waiting ? TICK_MS : -1);
        Connection *gone[EVENTS + 1];
        int dropped = 0;
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr == &stdin_mark) {
                char discarded[64];
                if (read(STDIN_FILENO, discarded, sizeof discarded) <= 0) return 0;
                continue;
            }
            if (events[i].data.ptr == &server_mark) {
                for (int fd; (fd = accept(server, NULL, NULL)) >= 0;) {
                    prompt_socket(fd);
                    Connection *c = need(calloc(1, sizeof *c));
                    c->fd = fd;
                    struct epoll_event in = {.events = EPOLLIN, .data.ptr = c};
                    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &in);
                }
                continue;
            }
            Connection *c = events[i].data.ptr;
            int state = 1;
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
                ssize_t got = recv(c->fd, c->in + c->in_bytes, REQUEST_BYTES - c->in_bytes, 0);
                if (got > 0) c->in_bytes += (size_t)got;
                else if (got == 0 || errno != EAGAIN) state = -1;
                if (state > 0 && !c->streaming && !c->out_bytes) state = request(c);
            }
            if (state >= 0 && events[i].events & EPOLLOUT && (state = flush(c)) == 1) state = go_on(c);
            if (state < 0) {
                drop(c);
                gone[dropped++] = c;
            }
        }
        int64_t now = now_ns();
        for (Connection *c = waiting, *next; c; c = next) {
            next = c->next;
            if (c->due_ns <= now && go_on(c) < 0) {
                drop(c);
                free(c);
            }
        }
        for (int i = 0; i < dropped; i++) free(gone[i]);
    }
}
