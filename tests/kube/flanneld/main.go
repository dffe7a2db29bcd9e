// A node of flannel's own code for tests: its kube-subnet-mgr and its udp backend, with the one-thread
// proxy in C. What flannel's main does beside that is left out: firewall rules and other backends,
// whose modules are large.
//
//	flanneld KUBECONFIG NET-CONF-FILE SUBNET-FILE INTERFACE
package main

import (
	"context"
	"log"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/flannel-io/flannel/pkg/backend"
	_ "github.com/flannel-io/flannel/pkg/backend/udp"
	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/ipmatch"
	"github.com/flannel-io/flannel/pkg/subnet"
	"github.com/flannel-io/flannel/pkg/subnet/kube"
)

func main() {
	kubeconfig, netConf, subnetFile, device := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	ctx, cancel := context.WithCancel(context.Background())
	manager, err := kube.NewSubnetManager(ctx, "", kubeconfig, "flannel.alpha.coreos.com", netConf, true)
	must(err)
	config, err := manager.GetNetworkConfig(ctx)
	must(err)
	family, err := ipmatch.GetIPFamily(config.EnableIPv4, config.EnableIPv6)
	must(err)
	link, err := ipmatch.LookupExtIface(device, "", "", family, ipmatch.PublicIPOpts{})
	must(err)
	udp, err := backend.NewManager(ctx, manager, link).GetBackend(config.BackendType)
	must(err)
	var workers sync.WaitGroup
	network, err := udp.RegisterNetwork(ctx, &workers, config)
	must(err)
	must(subnet.WriteSubnetFile(subnetFile, config, false, network.Lease().Subnet, ip.IP6Net{}, network.MTU()))
	must(manager.CompleteLease(ctx, network.Lease(), &workers))
	log.Print("Running backend.")
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	go func() { <-stop; cancel() }()
	network.Run(ctx)
	workers.Wait()
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
