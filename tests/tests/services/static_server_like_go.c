/*
 * Stands in for a program with Go's net/http: linked statically, so that nothing can be preloaded into it. It binds with SO_REUSEADDR and without
 * SO_REUSEPORT, and accepts from an edge-triggered epoll instance until the queue is empty. At SIGTERM it does what Server.Shutdown does: it closes
 * the listener, then idle connections, and waits for the others.
 *
 * server ADDRESS:PORT [mptcp]
 *
 * With `mptcp` it listens by Multipath TCP, as programs of Go 1.24 and later do by default.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

static atomic_int open_connections;
/* Readable once the server ends. */
static int ending;
/* Written to when the last connection has ended. */
static int last_ended;

static int listen_at(const char *text, int protocol)
{
	char host[64];
	const char *colon = strrchr(text, ':');
	struct sockaddr_in address = { .sin_family = AF_INET };
	int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol);

	if (!colon || colon - text >= (long)sizeof(host))
		errx(1, "ADDRESS:PORT");
	memcpy(host, text, colon - text);
	host[colon - text] = 0;
	address.sin_port = htons(atoi(colon + 1));
	if (inet_pton(AF_INET, host, &address.sin_addr) != 1)
		errx(1, "%s is not an address", host);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) || listen(listener, 4096))
		err(1, "listen %s", text);
	return listener;
}

/* Waits for a request. An idle connection is given up when the server ends, a new one is not. */
static int read_request(int client, int is_idle)
{
	char request[4096];
	size_t length = 0;

	for (;;) {
		struct pollfd files[] = { { .fd = client, .events = POLLIN }, { .fd = ending, .events = POLLIN } };
		if (poll(files, is_idle && !length ? 2 : 1, 5000) <= 0 || !files[0].revents)
			return 0;
		ssize_t count = read(client, request + length, sizeof(request) - 1 - length);
		if (count <= 0)
			return 0;
		length += count;
		request[length] = 0;
		if (strstr(request, "\r\n\r\n"))
			return strstr(request, "HTTP/1.0") ? 1 : 2;
	}
}

static void *serve(void *argument)
{
	static const char closing[] = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n";
	static const char kept[] = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";
	int client = (int)(long)argument, version = read_request(client, 0);

	while (version) {
		const char *reply = version == 1 ? closing : kept;
		if (write(client, reply, strlen(reply)) < 0 || version == 1)
			break;
		version = read_request(client, 1);
	}
	close(client);
	if (atomic_fetch_sub(&open_connections, 1) == 1)
		eventfd_write(last_ended, 1);
	return NULL;
}

static void accept_all(int listener)
{
	pthread_t thread;
	int client;

	while ((client = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
		atomic_fetch_add(&open_connections, 1);
		if (pthread_create(&thread, NULL, serve, (void *)(long)client))
			errx(1, "no thread for a connection");
		pthread_detach(thread);
	}
}

int main(int count, char **arguments)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET };
	sigset_t signals;
	eventfd_t ignored;

	if (count < 2)
		errx(1, "ADDRESS:PORT");
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	signal(SIGPIPE, SIG_IGN);
	ending = eventfd(0, EFD_CLOEXEC);
	last_ended = eventfd(0, EFD_CLOEXEC);
	int listener = listen_at(arguments[1], count > 2 ? IPPROTO_MPTCP : IPPROTO_TCP), terminated = signalfd(-1, &signals, SFD_CLOEXEC);
	int poller = epoll_create1(EPOLL_CLOEXEC);

	event.data.fd = listener;
	epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
	event.data.fd = terminated;
	epoll_ctl(poller, EPOLL_CTL_ADD, terminated, &event);
	for (;;) {
		if (epoll_wait(poller, &event, 1, -1) != 1)
			continue;
		if (event.data.fd != listener)
			break;
		accept_all(listener);
	}
	close(listener);
	eventfd_write(ending, 1);
	while (atomic_load(&open_connections))
		eventfd_read(last_ended, &ignored);
	return 0;
}
